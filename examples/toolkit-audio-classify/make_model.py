"""Make the sample's model again: an Audio Spectrogram Transformer of nano size, whose weights are random."""

from pathlib import Path

import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

from toolkit_audio_classify.sounds import CLASSES, RATE

FOLDER = Path(__file__).parent / "toolkit_audio_classify" / "sample_model"
SEED = 6
FRAMES, BANDS = 48, 32  # of 10 ms; mel
MEAN, STD = -0.75, 1.85  # of the sample's log-mel features; the extractor divides by twice the latter


def main() -> None:
    """Write it in place of what is there."""
    config = ASTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        patch_size=8,
        time_stride=8,
        frequency_stride=8,
        max_length=FRAMES,
        num_mel_bins=BANDS,
        initializer_range=0.2,  # what suits a width of 768, 0.02, makes one of 32 slow to begin
        id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
    )
    torch.manual_seed(SEED)
    ASTForAudioClassification(config).half().save_pretrained(FOLDER)
    extractor = ASTFeatureExtractor(
        sampling_rate=RATE, num_mel_bins=BANDS, max_length=FRAMES, mean=MEAN, std=STD
    )
    extractor.save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
