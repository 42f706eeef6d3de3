"""Installs videohpm: `pip install .`, or `pip install -e '.[test]'` to work on it.

The version and the dependencies stand here and nowhere else. Lower bounds are releases that
tests of the parts using them passed with (DeepSpeed's: the only one tried to the end). There are no
upper bounds: a newer release that breaks something is better met by a fix here than by an
environment that cannot be solved.
"""

from setuptools import find_packages, setup

# decord 0.6 has wheels for these machines only; everywhere else PyAV reads every file.
DECORD = (
    "sys_platform == 'linux' and platform_machine == 'x86_64'"
    " or sys_platform == 'win32' and platform_machine == 'AMD64'"
)

REQUIRES = [
    "torch>=2.6",  # torch.load(weights_only=True) as the default, and safe_globals
    "torchvision>=0.21",  # the release beside torch 2.6; transforms.v2
    "timm>=1.0.16",
    "av>=15.0",  # Codec.canonical_name is younger than 14.1
    f"decord>=0.6.0; {DECORD}",
    # 0.19.3 changed the default of gradient_clipping from 0 to 1.0: engine.py always sets it.
    "deepspeed>=0.19.8; sys_platform == 'linux'",
    "numpy>=1.26",
    "jsonargparse[signatures]>=4.49",  # ArgumentParser.instantiate
    "safetensors>=0.8",  # before, a file that was read could not be written again (it is mapped)
    "rich>=13.7",
    "tensorboard>=2.16",
    "matplotlib>=3.8",
    "pillow>=10.0",
    "torchmetrics>=1.4",
    "PyYAML>=6.0.1",
]

# Where the tests need a newer release than the package, they name it again.
TEST = [
    "pytest>=8.0",
    "pytest-xdist>=3.5",  # run_tests.sh spreads the suite over the cores
    "hypothesis>=6.100",
    "ruff>=0.9",
    "setuptools>=77.0.3",  # tests/test_packaging.py builds the package
    "packaging>=22.0",  # and reads its requirements
    "transformers>=5.18",  # an independent VideoMAE to compare with
    "scikit-learn>=1.4",  # independent metrics and classifiers to compare with
    "timm>=1.0.31",  # writes the number of heads into its own exports
    "av>=17.1",  # writes rotated videos
]

setup(
    name="videohpm",
    version="0.1.0",
    description="Hard Patches Mining for video: masked autoencoders that learn what is hard",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    # Only videohpm: an importable top-level `datasets` would shadow Hugging Face's package.
    packages=find_packages(include=["videohpm", "videohpm.*"]),
    install_requires=REQUIRES,
    extras_require={"test": TEST},
    entry_points={"console_scripts": ["videohpm = videohpm.cli:main"]},
)
