"""Configs of published recipes are complete, and say what was published."""

import pathlib

import pytest

from jaxvision.errors import ConfigError
from jaxvision.models.registry import count_parameters, variant_of
from jaxvision.train.config import load_config
from jaxvision.train.stages import stage_configs

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def load(spec):
    return load_config(f"{CONFIGS}/{spec}")


@pytest.mark.parametrize("variant", ["demo", "demo,plain", "v4", "resnet_v1", "resnet_v2", "resnet_v2_drawn,imagenette", "resnet_v2_short"])
def test_inception_s_variants_name_models_and_the_published_recipe(variant):
    config = load(f"inception_v4.py:{variant}")
    assert variant_of(config.model.name)
    if not variant.startswith("demo"):
        assert (config.optim.lr, config.optim.eps, config.optim.decay_factor, config.image_size) == (0.045, 1.0, 0.94, (299, 299))


@pytest.mark.parametrize(
    "variant, side, resize", [("regnety,fast", 240, 276), ("regnety,wg", 224, 256), ("efficientnet,uniform", 284, 324), ("efficientnet,r", 448, 512)]
)
def test_scaled_networks_are_trained_and_tested_at_the_published_sizes(variant, side, resize):
    config = load(f"fast_scaling.py:{variant}")
    assert config.image_size == variant_of(config.model.name).image_size == (side, side)
    assert config.data.eval_crop == side / resize


def test_retinopathy_s_variants_are_complete():
    assert load("dr_resnet.py:full").task.positive_weight == 4 and load("dr_resnet.py:grade").task.metrics == ("auc", "kappa")
    assert load("dr_resnet.py:demo").task.policy and not load("dr_resnet.py:demo,pooled").task.policy


def test_d_former_s_variants_are_complete():
    synapse, acdc, demo = (load(f"d_former.py:{variant}") for variant in ("synapse", "acdc", "demo"))
    assert synapse.image_size == variant_of(synapse.model.name).image_size == (64, 128, 128)
    assert len(synapse.task.judged) == 8 and synapse.data.intensity == ("clip", -175.0, 250.0) and synapse.optim.momentum == 0.99
    assert acdc.image_size == variant_of(acdc.model.name).image_size == (16, 160, 160)
    assert demo.data.source == "phantoms" and demo.image_size == (16, 32, 32)


ABSENT = ["inception_v4.py:v5", "fast_scaling.py:efficientnet,wg", "dr_resnet.py:demo,nil", "dr_resnet.py:full,none", "dcl.py:demo,nce"]


@pytest.mark.parametrize("spec", [*ABSENT, "surgical_ssl.py:mocov2"])
def test_a_variant_that_is_not_there_is_one_line(spec):
    with pytest.raises(ConfigError, match=spec.split(":")[0]):
        load(spec)


@pytest.mark.parametrize("variant", ["demo", "demo,info_nce", "full", "full,dclw", "large", "cifar10", "moco", "nnclr"])
def test_dcl_s_variants_pre_train_and_probe_what_they_learned(variant):
    config = load(f"dcl.py:{variant}")
    (first, pretrain), (_, probe) = stage_configs(config)[:: len(config.stages) - 1]
    assert first == "pretrain" and pretrain.task.name in ("ssl/dcl", "ssl/moco", "ssl/nnclr")
    assert (probe.task.name, probe.init_from, probe.init_branch) == ("probe", "stage:pretrain", "backbone")


def test_the_surgical_study_s_methods_share_views_and_optimizer_and_differ_in_the_rest():
    found = {method: dict(stage_configs(load(f"surgical_ssl.py:{method}"))) for method in ("full", "simclr", "swav", "dino")}
    for stages in found.values():
        pretrain, optim = stages["pretrain"], stages["pretrain"].optim
        assert (optim.name, optim.lr, optim.lr_batch, optim.weight_decay, pretrain.batch_size, pretrain.epochs) == ("larc", 0.1, 256, 1e-6, 256, 60)
        assert pretrain.augment.randaugment[0] == "rand-m8-mstd0.5-inc1" and pretrain.task.view_size == (224, 224)
        assert [stages[name].data.limit for name in ("phases_12_0", "phases_25_0", "phases")] == [0.125, 0.25, None]
        assert [stages[f"phases_12_{draw}"].data.limit_seed for draw in range(3)] == [0, 1, 2] and stages["phases_12_1"].data.limit_by == r"video\d+"
    assert (found["full"]["pretrain"].task.queue, found["simclr"]["pretrain"].task.groups) == (65536, 4)
    assert (found["swav"]["pretrain"].task.freeze, found["dino"]["pretrain"].task.warmup) == (313, 7500)


@pytest.mark.parametrize("variant", ["moco_imagenet", "simclr_imagenet", "swav_imagenet", "dino_imagenet", "dino_imagenet_vit"])
def test_the_originals_are_complete(variant):
    assert variant_of(dict(stage_configs(load(f"surgical_ssl.py:{variant}")))["linear"].model.name)


@pytest.mark.parametrize(
    "variant, model, rate, steps, side",
    [
        ("scratch", "drct_x4", 2e-4, 500_000, 256),
        ("imagenet,3,large", "drct_l_x3", 2e-4, 800_000, 192),
        ("finetune,2", "drct_x2", 1e-5, 250_000, 128),
        ("from_x2,4", "drct_x4", 1e-4, 250_000, 256),
    ],
)
def test_drct_s_variants_are_the_released_recipes(variant, model, rate, steps, side):
    config = load(f"drct.py:{variant}")
    assert variant_of(model).settings["scale"] * 64 == side and (config.model.name, config.image_size) == (model, (side, side))
    assert (config.optim.lr, config.steps, config.batch_size, config.optim.ema, config.optim.b2) == (rate, steps, 32, 0.999, 0.99)
    assert config.optim.milestones[0] == config.steps * 0.5 or variant.startswith("imagenet")
    assert config.reinit_head == (variant == "from_x2,4")


@pytest.mark.parametrize(
    "variant, folders", [("denoise", "input,groundtruth"), ("lol", "low,high"), ("fivek", "input,target"), ("sr,3", "input,target")]
)
def test_mirnet_s_tasks_are_folders_of_pairs_and_one_recipe(variant, folders):
    config = load(f"mirnet.py:{variant}")
    assert (config.data.source, config.data.name, config.task.loss) == ("paired", folders, "clipped_charbonnier")
    assert (config.epochs, config.batch_size, config.task.patch, config.task.mixup, config.task.mixup_from) == (60, 16, 128, 1.2, 5)
    assert config.task.get("border", None) == (3 if variant == "sr,3" else None)


RESTORED = {
    "maxim_s3": ("sidd", "gopro", "reds", "realblur_r", "realblur_j"),
    "maxim_s2": ("rain13k", "raindrop", "reside_indoor", "reside_outdoor", "lol", "fivek"),
}


@pytest.mark.parametrize("model, variant", [(model, variant) for model, variants in RESTORED.items() for variant in variants])
def test_maxim_s_tasks_are_folders_of_pairs_and_one_recipe(model, variant):
    config = load(f"maxim.py:{variant}")
    assert (config.model.name, config.image_size, config.data.source, config.data.crop) == (model, (256, 256), "paired", "window")
    assert (config.task.loss, config.task.frequency, config.task.supervise, config.task.mix_prob) == ("charbonnier", 0.1, "outputs", 0.5)
    assert (config.optim.name, config.optim.lr, config.optim.lr_end, config.optim.schedule) == ("adam", 2e-4, 1e-7, "cosine")


@pytest.mark.parametrize("letter, model, side", [("a", "codenet_a", 256), ("e", "codenet_e", 512)])
def test_codenet_s_detectors_are_trained_and_then_quantized(letter, model, side):
    stages = dict(stage_configs(load(f"codenet.py:voc,{letter}")))
    first, then = stages["float"], stages["quantized"]
    assert (first.model.name, first.image_size, first.optim.lr, first.epochs, first.data.crop) == (model, (side, side), 1.25e-4, 90, "center_affine")
    assert (then.model.weight_bits, then.model.activation_bits, then.model.percentile, then.init_from) == (4, 8, True, "stage:float")
    assert load("codenet.py:coco,c,float").stages == () and load("codenet.py:coco,c").data.max_boxes == 128


def test_codenet_s_ablation_is_the_released_recipe():
    config, coco = load("codenet.py:ablation,deform_bound"), load("codenet.py:ablation_coco")
    assert variant_of(config.model.name).settings["kind"] == "deform_bound" and config.task.ignored
    assert (config.steps, config.batch_size, config.optim.lr, config.optim.milestones) == (18_000, 128, 0.01, (12_000, 16_000))
    assert (coco.steps, coco.batch_size, coco.optim.lr, coco.optim.lr_start, coco.task.count) == (90_000, 260, 0.06, 6e-5, 128)


@pytest.mark.parametrize("spec", ["codenet.py:voc,f", "codenet.py:ablation", "codenet.py:voc,a,int8"])
def test_detectors_that_are_not_there_are_one_line(spec):
    with pytest.raises(ConfigError, match=spec.split(":")[0]):
        load(spec)


@pytest.mark.parametrize("spec", ["drct.py:scratch,5", "drct.py:demo,2", "mirnet.py:sr", "mirnet.py:lol,2", "maxim.py:sots", "maxim.py:lol,plain"])
def test_restoration_s_variants_that_are_not_there_are_one_line(spec):
    with pytest.raises(ConfigError, match=spec.split(":")[0]):
        load(spec)


@pytest.mark.parametrize(
    "variant, parameters, recipe, heads",
    [
        ("resnet50", 25_557_032, ("momentum", 0.1, 1e-4, 256, 100), (16, 24)),
        ("resnet50,swin_base", 25_557_032, ("momentum", 0.1, 1e-4, 256, 100), (8, 16)),
        ("mobilenet", 4_231_976, ("momentum", 0.1, 1e-4, 256, 100), (16, 24)),
        ("resnet50_strong", 25_576_264, ("lamb", 5e-3, 0.02, 2048, 300), (16, 24)),
        ("vit_base", 86_566_120, ("adamw", 1e-3, 0.05, 1024, 300), (8, 8)),
        ("mixer_small", 18_528_264, ("adamw", 1e-3, 0.05, 1024, 300), (8, 8)),
    ],
)
def test_scalekd_s_students_and_their_recipes_are_the_published_ones(variant, parameters, recipe, heads):
    config = load(f"scalekd.py:{variant}")
    optim = config.optim
    assert (optim.name, optim.lr, optim.weight_decay, config.batch_size, config.epochs) == recipe
    fields = {key: config.model[key] for key in ("class_token", "pool") if key in config.model}
    assert (count_parameters(config.model.name, **fields) if fields else variant_of(config.model.name).parameters) == parameters
    assert config.task.heads == heads and config.task.alphas == ((0.08, 0.06),) * 2 and config.task.teacher_taps == ("layers_2", "norm")
    assert variant_of(config.frozen.teacher.model).parameters and config.frozen.teacher.num_classes == 1000


def test_scalekd_s_second_teacher_has_a_grid_of_16_and_its_students_of_tokens_have_it_too():
    for student, parameters, patch in (("resnet50_strong", None, None), ("vit_base", 86_473_960, 14), ("mixer_base", 60_295_912, 14)):
        config = load(f"scalekd.py:{student},eva_large")
        fields = {key: config.model[key] for key in ("class_token", "pool", "patch") if key in config.model}
        assert fields.get("patch") == patch and (parameters is None or count_parameters(config.model.name, **fields) == parameters)
        assert config.task.teacher_taps == ("blocks_21", "blocks_23") and config.task.heads == (16, 16) and config.task.logits == "kd"
    teacher = config.frozen.teacher
    assert count_parameters(teacher.model, image_size=teacher.image_size) == 304_203_752 and variant_of(teacher.model).mean[0] == 0.48145466


def test_scalekd_s_smallest_teacher_has_no_logits_and_one_view_less_and_absent_teachers_say_so():
    config = load("scalekd.py:resnet50,swin_small")
    assert config.task.logits == "none" and config.task.alphas == ((0.08, 0.06), (0.08, 0.0)) and config.task.heads == (3, 6)
    for variant in ("resnet50,beit_large", "resnet51", "demo,dkd"):
        with pytest.raises(ConfigError, match=r"scalekd\.py"):
            load(f"scalekd.py:{variant}")


@pytest.mark.parametrize(
    "variant, frames, length, decay, channels", [("lrw", 29, 15, 0.92, 3), ("lrw1000", 40, 24, 0.92, 1), ("grid", 75, 100, 0.8, 3)]
)
def test_lip_reading_s_variants_begin_with_cross_entropy_and_go_on_with_the_policy(variant, frames, length, decay, channels):
    (first, entropy), (second, policy) = stage_configs(load(f"pcpg.py:{variant}"))
    assert (first, second, entropy.task.name, policy.task.name) == ("cross_entropy", "policy", "text/transcribe", "pcpg")
    assert entropy.image_size == (frames, 50, 100) and entropy.data.text_length == length and (entropy.data.channels or 3) == channels
    assert (entropy.optim.decay_factor, entropy.batch_size, policy.init_from, policy.optim.lr) == (decay, 32, "stage:cross_entropy", 5e-5)


def test_lip_reading_s_comparison_differs_in_the_policy_alone():
    stages = dict(stage_configs(load("pcpg.py:compare")))
    assert {name: (stage.task.get("weight", None), stage.task.get("window", None)) for name, stage in stages.items() if name != "cross_entropy"} == {
        "cross_entropy_on": (0.0, None),
        "policy_gradient": (0.1, 1),
        "window_3": (0.1, 3),
        "window_5": (0.1, 5),
    }
