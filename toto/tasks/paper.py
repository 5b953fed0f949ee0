"""What the paper reports of the same questions, to be printed beside a result and marked."""

from toto.tokens.vocabulary import Kind

PAPER: dict[Kind, list[str]] = {
    "video": [
        "Kinetics-400, attention probe, multi-view test (Table 8): base 59.3%, large 65.3%, "
        "1b 74.4%",
        "the same, other encoders (Table 8): I-JEPA 74.5%, VideoMAE 79.8%, MVD 79.4%, "
        "Hiera 77.0%, InternVideo 73.7%, OpenCLIP 83.3%, DINOv2 84.4%",
        "Kinetics-400, cross-attention and MLP (Table 16, second-hand): base 61.2%, large 65.8%, "
        "1b 74.8%",
    ],
    "image": [
        "ImageNet top-1, attention probe, 256 px (Table 7): base 64.7%, large 71.1%, 1b 75.3%",
        "the same, other encoders (Table 7): DINO 80.1%, DINOv2 86.4%, BEiT-L 62.2%, "
        "AIM-1B 80.6%, MAE-H 80.9%",
        "the same by a linear probe (Table 7): SimCLR 74.2%, BYOL 77.4%, SwAV 73.5%, "
        "iGPT-L 65.2%, iGPT-XL 72.0%",
        "ImageNet top-1, large, 128 px (Table 5): average pooling 53.2%, attention pooling 61.1%",
        "ImageNet top-1 by a linear probe (Table 14, second-hand): iGPT-L 65.2%, 1b 66.2%",
    ],
}

FINETUNED: dict[Kind, list[str]] = {
    "video": [
        "none: it fine-tunes on no videos for recognition; by frozen probes it has",
        *PAPER["video"][:1],
    ],
    "image": [
        "ImageNet top-1, full fine-tuning (Table 13): base 82.6%; DINO 82.8%, MoCo v3 83.2%, "
        "BEiT 83.2%, MAE 83.6%",
        "the same, base (second-hand): full attention 82.6%, causal 82.2%",
    ],
}

PERMANENCE = [
    "CATER, top-1 with 16 / 32 frames (Table 12): large 62.8% / 72.9%",
    "the same, others (Table 12): V3D 55.2% / 69.7%, TFC V3D 54.6% / 70.2%",
]

TRACKED = [
    "J&F at 256 px (Table 10): base 42.0%, large 44.8%, 1b 46.1%; large at 512 px 62.4%",
    "the same, other encoders, 224 px (Table 10): DINO-b/8 54.3%, DINO-b/16 33.1%, MAE-b/16 31.5%",
]
