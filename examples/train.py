"""Train a timm model from a config: `python -m examples.train fit --config configs/vit.yaml`."""

from __future__ import annotations

from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from examples.classifier import Classifier


class ExamplesCLI(LightningCLI):
    """The model is built for the image size of the data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what model and data must agree on."""
        parser.link_arguments("data.init_args.image_size", "model.img_size")


def main() -> None:
    """Run the command line."""
    ExamplesCLI(Classifier, LightningDataModule, subclass_mode_data=True, seed_everything_default=0)


if __name__ == "__main__":
    main()
