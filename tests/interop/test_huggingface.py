"""transformers' VideoMAE is the judge: the same outputs from the same weights, both ways."""

import json
import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

CLASSES = {
    "MaskedAutoencoder": "VideoMAEForPreTraining",
    "VideoViT": "VideoMAEModel",
    "VideoClassifier": "VideoMAEForVideoClassification",
}


def theirs(micro, kind, pooling, **changes):
    config = transformers.VideoMAEConfig(
        image_size=32, num_frames=4, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=96, decoder_num_attention_heads=2, decoder_hidden_size=16,
        decoder_num_hidden_layers=1, decoder_intermediate_size=48, num_labels=5,
        use_mean_pooling=pooling, **changes,
    )  # fmt: skip
    return micro.randomise(getattr(transformers, CLASSES[kind])(config))


@torch.no_grad()
def outputs(micro, model):
    """Of their model or ours, on the same clips and the same mask."""
    from videohpm.grid import Mask
    from videohpm.hpm import reconstruction_loss

    clips, mask = micro.clips(), torch.zeros(2, 8, dtype=torch.bool)
    mask[0, [0, 3, 4, 6, 7]] = mask[1, [1, 2, 3, 5, 6]] = True
    if isinstance(model, transformers.PreTrainedModel):
        frames = clips.transpose(1, 2)
        if hasattr(model, "mask_token"):
            out = model(frames, bool_masked_pos=mask)
            return out.logits, out.loss
        out = model(frames)
        return out.logits if hasattr(model, "classifier") else out.last_hidden_state
    if not hasattr(model, "mask_token"):
        return model(clips)
    mask = Mask.from_bool(mask, model.grid)
    pixels = model(clips, mask).pixels
    return pixels, reconstruction_loss(pixels, clips, mask, model.grid).mean()


@pytest.mark.parametrize("pooling", [True, False])
@pytest.mark.parametrize("kind", CLASSES)
def test_in_and_out_again(micro, tmp_path, kind, pooling):
    model = theirs(micro, kind, pooling)
    model.save_pretrained(tmp_path / "in")
    weights, report = micro.read(tmp_path / "in")
    assert report.layout == f"Hugging Face {CLASSES[kind]}"
    assert not report.left_over and not report.missing
    micro.close(outputs(micro, weights.build()), outputs(micro, model))

    micro.save(weights.build(), tmp_path / "ours")
    report = micro.convert(tmp_path / "ours", tmp_path / "out", "huggingface")
    assert not report.not_written
    again, info = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    micro.close(outputs(micro, again.eval()), outputs(micro, weights.build()))
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", CLASSES)
def test_ours_computes_the_same_there(micro, tmp_path, kind):
    """Weights trained here; eps of decoder.norm and fc_norm is theirs, which must not matter."""
    plain = {"predictor_unit": None} if kind == "MaskedAutoencoder" else {}
    model = micro.make(kind, **plain)
    report = micro.convert(micro.save(model, tmp_path / "ours"), tmp_path / "hf", "huggingface")
    there = getattr(transformers, CLASSES[kind]).from_pretrained(tmp_path / "hf").eval()
    micro.close(outputs(micro, there), outputs(micro, model), 1e-4 if report.notes else 1e-5)
    if kind != "VideoViT":
        assert any("with eps 1e-05 whatever" in note for note in report.notes)
        exact = micro.make(kind, **plain, head_norm_eps=1e-5)
        micro.close(outputs(micro, there), outputs(micro, exact))


def test_the_backbone_of_a_pretrained_folder(micro, tmp_path):
    """VideoMAEModel finds its part of what VideoMAEForPreTraining is made of."""
    model = micro.make("MaskedAutoencoder")
    micro.convert(micro.save(model, tmp_path / "ours"), tmp_path / "hf", "huggingface")
    there = transformers.VideoMAEModel.from_pretrained(tmp_path / "hf").eval()
    micro.close(outputs(micro, there), outputs(micro, model.encoder))
    micro.convert(tmp_path / "ours", tmp_path / "encoder", "huggingface", what="encoder")
    alone = transformers.VideoMAEModel.from_pretrained(tmp_path / "encoder").eval()
    micro.close(outputs(micro, alone), outputs(micro, model.encoder))


def test_bin_shards_and_newer_names(micro, tmp_path):
    model = theirs(micro, "VideoClassifier", True)
    wanted = outputs(micro, model)
    model.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert (tmp_path / "shards/model.safetensors.index.json").exists()
    micro.close(outputs(micro, micro.read(tmp_path / "shards")[0].build()), wanted)
    folder = tmp_path / "bin"
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    micro.close(outputs(micro, micro.read(folder)[0].build()), wanted)


def test_without_query_and_value_biases(micro, tmp_path):
    model = theirs(micro, "VideoViT", False, qv_bias=False)
    model.save_pretrained(tmp_path / "in")
    weights, report = micro.read(tmp_path / "in")
    assert all("without query and value biases" in why for why in report.missing.values())
    assert len(report.missing) == 2
    micro.close(outputs(micro, weights.build()), outputs(micro, model))


def test_class_names_and_processor(micro, tmp_path):
    names = ["push", "pull", "lift", "drop", "turn"]
    ours = micro.save(micro.make("VideoClassifier"), tmp_path / "ours", labels=names)
    micro.convert(ours, tmp_path / "hf", "huggingface")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "hf")
    assert [config.id2label[i] for i in range(5)] == names
    micro.convert(tmp_path / "hf", tmp_path / "back")
    assert json.loads((tmp_path / "back/config.json").read_text())["labels"] == names
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    frames = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    found = processor(list(frames), return_tensors="pt")["pixel_values"][0]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in
                 ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # fmt: skip
    micro.close(found, (frames / 255 - mean) / std)


@pytest.mark.parametrize(
    ("task", "classes", "problem"),
    [
        (None, 5, "single_label_classification"),
        ({"name": "multi_label"}, 5, "multi_label_classification"),
        ({"name": "regress", "mean": 3.0, "std": 0.5}, 1, "regression"),
    ],
)
def test_what_outputs_mean(micro, tmp_path, task, classes, problem):
    """Their loss is that of the task, a regression gives the number, and it all comes back."""
    model = micro.make("VideoClassifier", 3, classes=classes)
    ours = micro.save(model, tmp_path / "ours", **({"task": task} if task else {}))
    report = micro.convert(ours, tmp_path / "hf", "huggingface")
    judge = transformers.VideoMAEForVideoClassification.from_pretrained(tmp_path / "hf").eval()
    assert judge.config.problem_type == problem
    clips = micro.clips()
    wanted = model(clips).detach()
    if problem == "regression":
        wanted = wanted * 0.5 + 3.0
        assert any("times 0.5 plus 3" in note for note in report.notes)
        truth, loss = torch.tensor([2.0, 4.0]), torch.nn.functional.mse_loss
        pair = wanted[:, 0], truth
    elif problem == "multi_label_classification":
        truth = torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
        pair, loss = (wanted, truth), torch.nn.functional.binary_cross_entropy_with_logits
    else:
        truth = torch.tensor([4, 1])
        pair, loss = (wanted, truth), torch.nn.functional.cross_entropy
    found = judge(clips.transpose(1, 2), labels=truth)
    micro.close(found.logits.detach(), wanted, 1e-4)
    micro.close(found.loss.detach(), loss(*pair), 1e-4)
    weights, _ = micro.read(tmp_path / "hf")
    micro.close(weights.build()(clips).detach(), wanted, 1e-4)
    back = {"name": "regress", "mean": 0.0, "std": 1.0} if classes == 1 else task
    assert weights.extra.get("task") == back


@pytest.mark.parametrize(
    "task", ["multi_label", {"name": "sort"}, {"name": "regress", "mean": "1"}]
)
def test_a_task_that_is_none_is_refused(micro, tmp_path, task):
    from videohpm.errors import UserError

    ours = micro.save(micro.make("VideoClassifier"), tmp_path / "ours", task=task)
    with pytest.raises(UserError, match="task: config.json has"):
        micro.convert(ours, tmp_path / "hf", "huggingface")
