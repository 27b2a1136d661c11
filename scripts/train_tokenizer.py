"""Train the frame tokenizer: `python scripts/train_tokenizer.py`, after scripts/prepare_data.py (the default data is made if missing)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scripts import cli
from scripts.defaults import default_preset, ensure_data
from tokenizer.config import TokenizerTrainConfig, presets


def main() -> None:
    config = cli.parse(TokenizerTrainConfig, presets=presets(), default_preset=default_preset)
    ensure_data(config.data)
    from tokenizer.parallel import process_group_ended
    from tokenizer.train import train_tokenizer

    with process_group_ended():
        report = train_tokenizer(config)
    if report:
        print(describe(report))
        print(f"tokenizer: {config.output} (report.json, reconstruction.png)")


def describe(report: dict) -> str:
    """The report's main figures in one line."""
    inside = "".join(f", inside {name} {q['psnr_db']:.1f} dB" for name, q in (report["masks"] or {}).items() if q)
    unchanged = f", {report['unchanged_share']:.0%} unchanged from frame to frame" if report["unchanged_share"] is not None else ""
    return (
        f"held out: PSNR {report['psnr_db']:.2f} dB, SSIM {report['ssim']:.3f}{inside}; "
        f"{report['used_codes']:.0f} of {report['codebook_size']} codes used, perplexity {report['codebook_perplexity']:.0f}, "
        f"at most {report['bits_per_frame']:.0f} bits a frame{unchanged}"
    )


if __name__ == "__main__":
    cli.main(main)
