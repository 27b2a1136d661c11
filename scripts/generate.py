"""Drive a trained world model from prompts: `python scripts/generate.py --prompt "rainy night"`."""

import cli

from worldgpt.generate_config import GenerateConfig


def main() -> None:
    config = cli.parse(GenerateConfig)
    from worldgpt.generate import generate

    for path in generate(config):
        print(path)


if __name__ == "__main__":
    cli.main(main)
