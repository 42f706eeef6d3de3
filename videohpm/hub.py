"""The Hugging Face Hub: names of models there become folders here, and folders models there.

Downloads go through the client's own cache; ``HF_HUB_OFFLINE``, ``HF_ENDPOINT``, ``HF_HOME`` and
the rest mean what they mean there.
"""

from __future__ import annotations

from functools import lru_cache, partial
from os import PathLike, fspath
from pathlib import Path

from videohpm.config.convert import HUB_NAME
from videohpm.errors import RunError, UserError, one_line
from videohpm.writing import full_disk

PREFIX = "hf://"
LOCAL = ("runs", "data")
"""Where our own commands write: runs/pretrain that is not there is nobody's model on the Hub."""
INSTALL = "pip install 'videohpm[hub]'"
WEIGHTS = (
    *("*.safetensors", "model.safetensors.index.json", "config.json", "README.md"),
    *("preprocessor_config.json", "video_preprocessor_config.json"),
)
"""What is fetched of a model; where it has no safetensors, these too:"""
PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "*.pth", "*.pt")


def is_name(path: str | PathLike[str]) -> bool:
    """Whether ``path`` means a model of the Hub: ``org/name``, or with a revision ``org/name@v2``.

    What lies here wins: a path that exists, or whose first part is a folder here or one of
    :data:`LOCAL`, is no such name. ``hf://org/name`` always is.
    """
    text = fspath(path)
    if text.startswith(PREFIX):
        return True
    if not HUB_NAME.fullmatch(text) or Path(text).exists():
        return False
    first = text.partition("/")[0]
    return first not in LOCAL and not Path(first).is_dir()


def resolve(
    path: str | PathLike[str],
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
) -> Path:
    """The local path that ``path`` means: itself, or for a name of the Hub the folder in its cache.

    Args:
        path: a path, or a name as for :func:`is_name`.
        revision: branch, tag or commit there; main by default.
        cache_dir: where to keep what is downloaded, instead of the client's own place.

    Raises UserError, one line, where the Hub has no such model, or cannot be reached.
    """
    if not is_name(path):
        return Path(path)
    name, found = split_name(fspath(path))
    return _download(name, revision or found, None if cache_dir is None else fspath(cache_dir))


def split_name(name: str) -> tuple[str, str | None]:
    """(org/name, revision or None) of a name. Raises UserError for what is none."""
    bare = name.removeprefix(PREFIX)
    if not HUB_NAME.fullmatch(bare):
        raise UserError(f"{name}: no name on the Hub; give org/name or org/name@revision")
    repository, _, revision = bare.partition("@")
    return repository, revision or None


@lru_cache(maxsize=8)
def _download(name: str, revision: str | None, cache_dir: str | None) -> Path:
    """The folder of a snapshot; asked once in a process, so that a run sees one version."""
    hub = _client(name)
    fetch = partial(hub.snapshot_download, name, revision=revision, cache_dir=cache_dir)
    try:
        folder = Path(fetch(allow_patterns=list(WEIGHTS)))
        if not any(folder.glob("*.safetensors")):
            fetch(allow_patterns=list(PICKLES))
    except Exception as error:
        if full_disk(error):
            raise
        raise UserError(f"{name}: no such path here, and {_why(error, name, revision)}") from None
    return folder


def push(folder: Path, name: str, private: bool = False) -> str:
    """Upload a folder as a model of the Hub, made where there is none; the address of the commit.

    Args:
        name: org/name, or org/name@branch.
        private: of a new model: whether only its owners see it.

    Raises UserError where the user has to log in or may not write there, RunError where it fails.
    """
    name, branch = split_name(name)
    hub = _client(name)
    try:
        api = hub.HfApi(library_name="videohpm")
        api.create_repo(name, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(name, branch=branch, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            revision=branch,
            commit_message="Upload with videohpm",
        )
    except Exception as error:
        kind = UserError if _status(error) in (401, 403) or _is(error, "LocalToken") else RunError
        reason = _why(error, name, branch).partition(" and its cache")[0]
        raise kind(f"push: {name}: {reason}") from None
    _download.cache_clear()
    return str(done.commit_url)


def _client(name: str):
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{name}: no such path here; to use the Hugging Face Hub: {INSTALL}"
        ) from None
    return huggingface_hub


def _is(error: BaseException, *kinds: str) -> bool:
    """Whether one of the classes of ``error`` is called so: they moved between releases."""
    return any(kind.__name__.startswith(kinds) for kind in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _why(error: Exception, name: str, revision: str | None) -> str:
    """What went wrong, in a few words."""
    if _is(error, "GatedRepo"):
        return f"the Hub wants its terms accepted at {name} first; then log in (hf auth login)"
    if _is(error, "RepositoryNotFound"):
        return "the Hub has no such model, or it is private (log in: hf auth login)"
    if _is(error, "RevisionNotFound"):
        return f"the Hub has no revision {revision} of it"
    if _is(error, "LocalToken") or _status(error) == 401:
        return "the Hub does not know you; log in: hf auth login"
    if _status(error) == 403:
        return "the Hub does not let you write there; check the name and your token"
    offline = ("OfflineMode", "LocalEntryNotFound", "ConnectError", "ConnectTimeout")
    if _is(error, *offline) or isinstance(error, ConnectionError):
        return "the Hub cannot be reached (offline?) and its cache does not have it"
    return f"the Hub answered: {one_line(error)[:200]}"
