"""The index of the 95 papers, and how far each is.

    python -m jaxvision.papers            # prints the table and writes docs/papers.md
    python -m jaxvision.papers --json     # prints the rows as JSON, and writes docs/papers.md as well

A row names the modules, below jaxvision/, that a paper consists of; its config is configs/<slug>.py and its claim test
tests/claims/test_<slug>.py. The status is never typed: `complete` when all of these exist and no claim is pending, `partial` when some file that
belongs to this paper alone does, `planned` otherwise.
"""

import argparse
import collections
import json
import pathlib
import sys
from typing import NamedTuple


class Paper(NamedTuple):
    """A row. `modules` are paths below jaxvision/; one that ends in "/" is a folder."""

    number: int
    slug: str
    title: str
    arxiv: str
    area: str
    modules: tuple[str, ...]

    @property
    def config(self) -> str:
        return f"configs/{self.slug}.py"

    @property
    def claim(self) -> str:
        return f"tests/claims/test_{self.slug}.py"

    @property
    def files(self) -> tuple[str, ...]:
        """All that the paper needs, from the root of the repository."""
        return (*(f"jaxvision/{module}" for module in self.modules), self.config, self.claim)


# An area, then its papers: number, slug, arXiv, modules; the title indented below.
_TABLE = """
# backbones
08 sret 2111.05297 models/sret.py
    Sliced Recursive Transformer
09 orthogonal_conv 2108.05623 nn/orthogonal.py tasks/orthogonal.py
    Existence, Stability and Scalability of Orthogonal Convolutional Neural Networks
10 convit 2103.10697 models/convit.py
    ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases
12 cross_d_conv 2411.02441 nn/cross_d_conv.py models/cross_d.py
    Cross-D Conv: Cross-Dimensional Transferable Knowledge Base via Fourier Shifting Operation
13 inceptionnext 2303.16900 models/inception_next.py
    InceptionNeXt: When Inception Meets ConvNeXt
15 terminator 2401.17948 models/terminator.py
    HyperZ·Z·W Operator Connects Slow-Fast Networks for Full Context Interaction
16 hornet 2207.14284 models/hornet.py models/imagenet22k.py
    HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions
19 soft 2207.03341 models/soft.py
    Softmax-free Linear Transformers
25 convfirst 2404.03617 models/convfirst.py kernels/conv_block/ kernels/mbconv/ train/waterline.py
    On the Efficiency of Convolutional Neural Networks
28 tic 2310.04134 models/tic.py
    TiC: Exploring Vision Transformer in Convolution
29 cas_vit 2408.03703 models/cas_vit.py
    CAS-ViT: Convolutional Additive Self-attention Vision Transformers for Efficient Mobile Applications
44 svt 2311.01310 models/svt.py
    Scattering Vision Transformer: Spectral Mixing Matters
45 fast_scaling 2103.06877 models/scaling.py models/regnet.py models/efficientnet.py
    Fast and Accurate Model Scaling
56 cvt 2103.15808 models/cvt.py
    CvT: Introducing Convolutions to Vision Transformers
59 lsnet 2503.23135 models/lsnet.py
    LSNet: See Large, Focus Small
61 vit_resnas 2109.00642 models/vit_resnas.py search/evolution.py
    Searching for Efficient Multi-Stage Vision Transformers
62 shiftaddvit 2306.06446 nn/shift_add.py models/shiftaddvit.py
    ShiftAddViT: Mixture of Multiplication Primitives Towards Efficient Vision Transformer
63 ats 2111.15667 nn/token_sampling.py models/vit.py
    Adaptive Token Sampling For Efficient Vision Transformers
67 poincare_resnet 2303.14027 nn/poincare.py models/poincare_resnet.py
    Poincaré ResNet
69 metaformer 2111.11418 models/metaformer.py models/token_mixers.py
    MetaFormer Is Actually What You Need for Vision
77 meta_spikeformer 2404.03663 nn/spiking.py models/meta_spikeformer.py
    Spike-driven Transformer V2: Meta Spiking Neural Network Architecture Inspiring the Design of Next-generation Neuromorphic Chips
80 complex_cnn 2302.04584 nn/complex.py models/complex_cnn.py
    Complex Network for Complex Problems: A comparative study of CNN and Complex-valued CNN
88 inception_v4 1602.07261 models/inception_v4.py models/inception_resnet.py models/inception_stack.py
    Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning
# training
24 look 2110.06014 tasks/look.py
    Rethinking Supervised Pre-training for Better Downstream Transferring
31 efficienttrain 2211.09703 augment/spectrum.py augment/resize.py train/phases.py train/curriculum.py data/replay.py search/curriculum.py
    EfficientTrain: Exploring Generalized Curriculum Learning for Training Visual Backbones
34 sam_vit 2106.01548 optim/rules.py optim/sharpness.py train/analysis.py augment/corruptions.py models/vit.py models/mlp_mixer.py
    When Vision Transformers Outperform ResNets without Pre-training or Strong Data Augmentations
46 dr_resnet 2210.03180 models/resnet.py data/fundus.py augment/fundus.py tasks/retinopathy.py search/policy.py
    A ResNet is All You Need? Modeling A Strong Baseline for Detecting Referable Diabetic Retinopathy in Fundus Images
53 dta 2408.01705 tasks/downstream_attack.py
    Downstream Transfer Attack: Adversarial Attacks on Downstream Models with Pre-trained Vision Transformers
65 patch_mixing 2306.17848 augment/patch_mixing.py augment/occlusion.py tasks/occlusion.py
    Hardwiring ViT Patch Selectivity into CNNs using Patch Mixing
71 b_cosification 2411.00715 nn/bcos.py models/bcos.py
    B-cosification: Transforming Deep Neural Networks to be Inherently Interpretable
87 dvpt 2307.09787 models/dvpt.py
    DVPT: Dynamic Visual Prompt Tuning of Large Pre-trained Models for Medical Image Analysis
89 scalekd 2411.06786 tasks/scalekd.py tasks/distil.py tasks/teacher_cache.py nn/cross_attention.py models/beit.py
    ScaleKD: Strong Vision Transformers Could Be Excellent Teachers
# kernels and numerics
26 int16_dfp 1802.00930 nn/dynamic_fixed_point.py kernels/int16_matmul/
    Mixed Precision Training of Convolutional Neural Networks using Integer Operations
30 im2win 2306.14316 kernels/im2win_conv/
    Im2win: An Efficient Convolution Paradigm on GPU
36 delta_activation 2107.07305 nn/delta_activation.py tasks/delta_activation.py
    Training for temporal sparsity in deep neural networks, application in video processing
40 mcu_odl 2305.19167 models/mlperf_tiny.py kernels/half_matmul/
    Reduced Precision Floating-Point Optimization for DNN On-Device Learning on MicroControllers
66 codenet 2002.08357 kernels/deform_conv/ nn/deform.py nn/quantize.py models/shufflenet_v2.py models/codenet.py tasks/detect/centernet.py
    Algorithm-hardware Co-design for Deformable Convolution
# compression and search
03 precropping 2203.02549 compress/saliency.py compress/precrop.py tasks/precrop.py
    Structured Pruning is All You Need for Pruning CNNs at Initialization
11 dass 2207.06968 models/darts.py search/dass.py
    DASS: Differentiable Architecture Search for Sparse neural networks
20 apriori_compression 2304.04964 compress/apriori.py data/waves.py tasks/surrogate.py
    A priori compression of convolutional neural networks for wave simulators
32 lpvit 2407.02068 compress/semi_structured.py kernels/block_sparse/
    LPViT: Low-Power Semi-structured Pruning for Vision Transformers
35 deps 2407.06167 compress/once_for_all.py tasks/deps.py
    DεpS: Delayed ε-Shrinking for Faster Once-For-All Training
47 otov2 2303.06862 compress/graph.py compress/zero_invariant.py optim/dhspg.py tasks/otov2.py
    OTOv2: Automatic, Generic, User-Friendly
48 concept_pruning 2401.04578 models/clip.py data/concept_pruning.py
    Effective pruning of web-scale datasets based on complexity of concept clusters
58 snnetv2 2307.00154 compress/stitching.py tasks/stitching.py
    Stitched ViTs are Flexible Vision Backbones
79 eas 1707.04873 compress/net2net.py search/eas.py
    Efficient Architecture Search by Network Transformation
86 rd_pruning 2308.10438 compress/rate_distortion.py
    Efficient Joint Optimization of Layer-Adaptive Weight Pruning in Deep Neural Networks
94 token_clustering 2210.01035 nn/token_clustering.py models/vit.py
    Expediting Large-Scale Vision Transformer for Dense Prediction without Fine-tuning
# self-supervised
06 surgical_ssl 2207.00449 models/tcn.py tasks/ssl/moco.py tasks/ssl/simclr.py tasks/ssl/swav.py tasks/ssl/dino.py
    Dissecting Self-Supervised Learning Methods for Surgical Computer Vision
14 surgenetxl 2501.09436 models/metaformer.py models/convnext.py models/pvt_v2.py tasks/ssl/dino.py
    Scaling up self-supervised learning for improved surgical foundation models
22 surgenet 2407.17904 models/metaformer.py tasks/ssl/dino.py
    Exploring the Effect of Dataset Diversity in Self-Supervised Learning for Surgical Computer Vision
41 mochi 2010.01028 tasks/ssl/moco.py tasks/ssl/mochi.py
    Hard Negative Mixing for Contrastive Learning
42 uni4eye 2203.04614 models/uni4eye.py tasks/ssl/uni4eye.py
    Uni4Eye: Unified 2D and 3D Self-supervised Pre-training via Masked Image Modeling Transformer for Ophthalmic Image Classification
52 voco 2410.09890 models/swin_unetr.py tasks/ssl/voco.py
    Large-Scale 3D Medical Image Pre-training with Geometric Context Priors
54 sit 2104.03602 tasks/ssl/sit.py
    SiT: Self-supervised vIsion Transformer
70 dcl 2110.06848 tasks/ssl/dcl.py tasks/ssl/nnclr.py
    Decoupled Contrastive Learning
73 spark_ct 2308.06534 tasks/ssl/moco.py tasks/ssl/swav.py tasks/ssl/byol.py tasks/ssl/spark.py
    Self-Supervised Pre-Training with Contrastive and Masked Autoencoder Methods for Dealing with Small Datasets in Deep Learning for
    Medical Imaging
84 g_simclr 2009.12007 tasks/ssl/simclr.py tasks/ssl/g_simclr.py
    G-SimCLR: Self-Supervised Contrastive Learning with Guided Projection via Pseudo Labelling
91 mae_thorax 2210.12843 models/vit.py models/densenet.py tasks/ssl/mae.py
    Delving into Masked Autoencoders for Multi-Label Thorax Disease Classification
# restoration and generation
05 raw_defense 2112.09219 models/pynet.py augment/raw.py tasks/restore/raw_defense.py
    All You Need is RAW: Defending Against Adversarial Attacks with Camera Image Pipelines
18 espcn 1609.05158 models/espcn.py nn/pixel_shuffle.py tasks/restore/supervised.py
    Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network
23 endopbr 2502.20669 models/endopbr.py tasks/generate/endopbr.py
    EndoPBR: Material and Lighting Estimation for Photorealistic Surgical Simulations via Physically-based Rendering
33 probabilistic_circuits 2111.11632 models/probabilistic_circuit.py tasks/generate/probabilistic_circuit.py
    Lossless Compression with Probabilistic Circuits
51 oftsr 2412.09465 models/guided_unet.py tasks/restore/flow.py tasks/restore/oftsr.py
    OFTSR: One-Step Flow for Image Super-Resolution with Tunable Fidelity-Realism Trade-offs
55 mirnet 2003.06792 models/mirnet.py
    Learning Enriched Features for Real Image Restoration and Enhancement
57 lpn 2310.14344 models/lpn.py tasks/restore/lpn.py
    What's in a Prior? Learned Proximal Networks for Inverse Problems
75 maxim 2201.02973 models/maxim.py
    MAXIM: Multi-Axis MLP for Image Processing
76 iarn 2209.13055 models/iarn.py tasks/restore/rescaling.py
    Effective Invertible Arbitrary Image Rescaling
85 stdo 2303.08331 models/wdsr.py tasks/restore/stdo.py
    Towards High-Quality and Efficient Video Super-Resolution via Spatial-Temporal Data Overfitting
93 drct 2404.00722 models/drct.py
    DRCT: Saving Image Super-resolution away from Information Bottleneck
# medical segmentation
02 ct_mr_prior 1901.11369 models/cyclegan.py models/unet.py tasks/adapt/ct_mr_prior.py
    Cross-modality (CT-MRI) prior augmented deep learning for robust lung tumor segmentation from small MR datasets
04 mis_fm 2306.16925 models/pctnet.py augment/volume_fusion.py
    MIS-FM: 3D Medical Image Segmentation using Foundation Models Pretrained on a Large-Scale Unannotated Dataset
21 noisy_pseudo_labels 2012.14584 models/cyclegan.py models/unet.py tasks/segment/noisy_pseudo_labels.py
    Annotation-Efficient Learning for Medical Image Segmentation based on Noisy Pseudo Labels and Adversarial Learning
27 oss_net 2110.10640 models/oss_net.py tasks/segment/occupancy.py
    OSS-Net: Memory Efficient High Resolution Semantic Segmentation of 3D Medical Data
37 neu_net 2309.11139 models/neu_net.py
    More complex encoder is not all you need
50 reversible_unet 2104.09648 nn/reversible.py models/reversible_unet.py
    Memory Efficient 3D U-Net with Reversible Mobile Inverted Bottlenecks for Brain Tumor Segmentation
60 cswin_unet 2305.00385 models/cswin_unet.py
    Cross-Shaped Windows Transformer with Self-supervised Pretraining for Clinically Significant Prostate Cancer Detection in Bi-parametric
    MRI
72 paratranscnn 2401.15307 models/paratranscnn.py
    ParaTransCNN: Parallelized TransCNN Encoder for Medical Image Segmentation
81 d_former 2201.00462 models/d_former.py
    D-Former: A U-shaped Dilated Transformer for 3D Medical Image Segmentation
83 umct 1811.12506 models/umct.py tasks/segment/umct.py
    3D Semi-Supervised Learning with Uncertainty-Aware Multi-View Co-Training
90 simple_dce_mri 2306.16714 tasks/segment/similarity_propagation.py
    SimPLe: Similarity-Aware Propagation Learning for Weakly-Supervised Breast Cancer Segmentation in DCE-MRI
92 skeletonization 2309.02527 tasks/segment/skeleton.py
    A skeletonization algorithm for gradient-based optimization
# adaptation, weak and semi-supervision
07 fst 2209.06993 tasks/adapt/fst.py
    Learning from Future: A Novel Self-Training Framework for Semantic Segmentation
17 harvard_gdp 2308.13411 models/efficientnet.py tasks/adapt/pseudo_supervisor.py
    Harvard Glaucoma Detection and Progression: A Multimodal Multitask Dataset and Generalization-Reinforced Semi-Supervised Learning
43 hiast 2302.06992 models/deeplab.py tasks/adapt/hiast.py
    Hard-aware Instance Adaptive Self-training for Unsupervised Cross-domain Semantic Segmentation
49 ins_mil 2307.02249 tasks/ins_mil.py
    Rethinking Multiple Instance Learning for Whole Slide Image Classification: A Good Instance Classifier is All You Need
68 dfu_ensembles 2112.00065 models/efficientnet.py models/pix2pixhd.py tasks/generate/pix2pixhd.py
    Boosting EfficientNets Ensemble Performance via Pseudo-Labels and Synthetic Images by pix2pixHD for Infection and Ischaemia
    Classification in Diabetic Foot Ulcers
78 toco 2303.01267 tasks/segment/toco.py
    Token Contrast for Weakly-Supervised Semantic Segmentation
82 fopro 2212.00465 tasks/fopro.py
    FoPro: Few-Shot Guided Robust Webly-Supervised Prototypical Learning
# detection
38 adaptor 2108.11801 models/rcnn.py tasks/adapt/adaptor.py
    Unsupervised domain adaptation for clinician pose estimation and instance segmentation in the operating room
39 wscol 2410.05557 models/rcnn.py tasks/adapt/source_free_detection.py tasks/adapt/wscol.py
    Rethinking Weak-to-Strong Augmentation in Source-Free Domain Adaptive Object Detection
64 lpld 2407.13524 models/rcnn.py tasks/adapt/source_free_detection.py tasks/adapt/lpld.py
    Enhancing Source-Free Domain Adaptive Object Detection with Low-confidence Pseudo Label Distillation
95 ghnd 2007.15818 models/rcnn.py tasks/detect/ghnd.py
    Neural Compression and Filtering for Edge-assisted Real-time Object Detection in Challenged Networks
# sequences and signals
01 pcpg 2003.03983 models/lipreader.py nn/seq2seq.py nn/recurrent.py tasks/text/transcribe.py tasks/text/distance.py tasks/pcpg.py
    Pseudo-Convolutional Policy Gradient for Sequence-to-Sequence Lip-Reading
74 mindbridge 2404.07850 models/mindbridge.py tasks/mindbridge.py
    MindBridge: A Cross-Subject Brain Decoding Framework
"""


def _parse(table: str) -> tuple[Paper, ...]:
    papers, area = [], ""
    for line in table.strip().splitlines():
        if line.startswith("# "):
            area = line[2:]
        elif line.startswith(" "):
            papers[-1] = papers[-1]._replace(title=f"{papers[-1].title} {line.strip()}".strip())
        else:
            number, slug, arxiv, *modules = line.split()
            papers.append(Paper(int(number), slug, "", arxiv, area, tuple(modules)))
    return tuple(papers)


PAPERS = tuple(sorted(_parse(_TABLE)))
AREAS = tuple(dict.fromkeys(paper.area for paper in _parse(_TABLE)))

# Architectures and rules that would be here without any of the papers: their presence says nothing about one.
_OF_ALL = frozenset(
    f"jaxvision/{module}"
    for module in (
        *("models/vit.py", "models/mlp_mixer.py", "models/resnet.py", "models/convnext.py", "models/efficientnet.py", "models/densenet.py"),
        *("models/regnet.py", "models/unet.py", "optim/rules.py"),
    )
)


def _present(root: pathlib.Path, file: str) -> bool:
    return (root / file).is_dir() if file.endswith("/") else (root / file).is_file()


PENDING = "tests/claims/pending"


def rows(root: pathlib.Path) -> list[dict]:
    """The papers as dicts: number, slug, title, arxiv, area, modules, configs, claims (those that exist below `root`), missing, pending, status."""
    used_by = collections.Counter(file for paper in PAPERS for file in paper.files)
    result = []
    for paper in PAPERS:
        there = [file for file in paper.files if _present(root, file)]
        own = [file for file in there if used_by[file] == 1 and file not in _OF_ALL]
        pending = sorted(path.relative_to(root).as_posix() for path in (root / PENDING).glob(f"test_{paper.slug}*.py"))
        result.append(
            {
                "number": paper.number,
                "slug": paper.slug,
                "title": paper.title,
                "arxiv": paper.arxiv,
                "area": paper.area,
                "modules": [file for file in there if file.startswith("jaxvision/")],
                "configs": [file for file in there if file.startswith("configs/")],
                "claims": [file for file in there if file.startswith("tests/")],
                "missing": [file for file in paper.files if file not in there],
                "pending": pending,
                "status": "complete" if len(there) == len(paper.files) and not pending else "partial" if own else "planned",
            }
        )
    return result


def _counts(table: list[dict]) -> str:
    count = collections.Counter(row["status"] for row in table)
    return ", ".join(f"{count[status]} {status}" for status in ("complete", "partial", "planned"))


def text(table: list[dict]) -> str:
    """The table for a terminal: a line a paper, and the counts."""
    wide = max(len(row["slug"]) for row in table)
    lines = [f"{row['number']:2d}  {row['slug']:{wide}}  {row['status']:8}  {row['title']}" for row in table]
    return "\n".join([*lines, "", f"{len(table)} papers: {_counts(table)}"])


def markdown(table: list[dict]) -> str:
    """docs/papers.md: a table for each area, what exists linked."""

    def link(file):
        return f"[{pathlib.PurePath(file).name}](../{file})"

    lines = [
        "# The papers",
        "",
        "Written by `python -m jaxvision.papers` from what exists; do not edit. `complete`: modules, config and claim test are there, and no claim",
        "is pending (written, and not seen to hold); `partial`: some of what belongs to the paper alone is there; `planned`: nothing of that yet.",
        "",
        f"{len(table)} papers: {_counts(table)}.",
    ]
    for area in AREAS:
        head = ["| no | paper | status | config | modules | claim | pending |", "|---|---|---|---|---|---|---|"]
        lines += ["", f"## {area[0].upper()}{area[1:]}", "", *head]
        for row in (row for row in table if row["area"] == area):
            cells = [", ".join(map(link, row[kind])) for kind in ("configs", "modules", "claims", "pending")]
            paper = f"{row['title']} ([{row['arxiv']}](https://arxiv.org/abs/{row['arxiv']}))"
            lines.append(f"| {row['number']:02d} | {paper} | {row['status']} | {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None, root: pathlib.Path | None = None) -> int:
    """Prints the table and, in a checkout, writes docs/papers.md."""
    parser = argparse.ArgumentParser(prog="python -m jaxvision.papers", description="Prints the index of the papers and writes docs/papers.md.")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(arguments)
    root = root or pathlib.Path(__file__).resolve().parent.parent
    table = rows(root)
    print(json.dumps(table, indent=1, ensure_ascii=False) if options.json else text(table))
    if (root / "pyproject.toml").is_file():
        (root / "docs").mkdir(exist_ok=True)
        (root / "docs" / "papers.md").write_text(markdown(table), encoding="utf-8")
    else:
        missing = "without configs and claim tests no paper is complete, and docs/papers.md was not written"
        print(f"{root} is not a checkout of jaxvision: {missing}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
