"""Recipes: the paper's numbers, files, changes from the shell and what is refused."""

import dataclasses

import pytest

from keras_sepvit import training
from keras_sepvit.classification import ClassificationRecipe
from keras_sepvit.recipes import RECIPES, load_recipe
from keras_sepvit.training.settings import save_recipe

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    "name, variant, warmup, decay",
    [
        ("imagenet_lite", "sepvit_lite", 5, 0.05),
        ("imagenet_t", "sepvit_t", 5, 0.05),
        ("imagenet_s", "sepvit_s", 5, 0.05),
        ("imagenet_b", "sepvit_b", 20, 0.1),
    ],
)
def test_imagenet_recipes_are_the_papers(name, variant, warmup, decay):
    recipe = load_recipe(name)
    optimizer, augmentation = recipe.optimizer, recipe.augmentation
    assert recipe.model.variant == variant
    assert (recipe.epochs, recipe.batch_size) == (300, 1024)
    assert (optimizer.warmup_epochs, optimizer.weight_decay) == (warmup, decay)
    assert recipe.peak_learning_rate() == 1e-3
    assert (optimizer.warmup_learning_rate, optimizer.final_learning_rate) == (1e-6, 1e-5)
    assert augmentation.auto_augment == "rand-m9-mstd0.5-inc1"
    assert (augmentation.mixup, augmentation.cutmix, augmentation.cutmix_rate) == (0.8, 1.0, 0.5)
    assert (augmentation.label_smoothing, augmentation.erase_rate) == (0.1, 0.25)


@pytest.mark.parametrize(
    "head, variant, drop_path, decay",
    [
        ("fpn", "t", 0.2, 1e-4),
        ("fpn", "s", 0.3, 1e-4),
        ("fpn", "b", 0.4, 1e-4),
        ("upernet", "t", 0.2, 0.01),
        ("upernet", "s", 0.3, 0.01),
        ("upernet", "b", 0.5, 0.03),
    ],
)
def test_ade20k_recipes_are_the_papers(head, variant, drop_path, decay):
    recipe = load_recipe(f"ade20k-{head}-{variant}", ["data.name=folder:ade"])
    model, optimizer, augmentation = recipe.model, recipe.optimizer, recipe.augmentation
    assert model.head == {"fpn": "semantic_fpn", "upernet": "upernet"}[head]
    assert (model.variant, model.drop_path_rate) == (f"sepvit_{variant}", drop_path)
    assert (model.image_size, model.channels, model.weights) == ((512, 512), None, None)
    # Rates and schedules: tests/test_optimizer.py.
    assert (optimizer.weight_decay, optimizer.clip_norm, optimizer.layer_decay) == (decay, None, 1)
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.999, 1e-8)
    assert recipe.images == 16 * {"fpn": 80_000, "upernet": 160_000}[head]
    assert (recipe.batch_size, recipe.precision, recipe.ema_decay) == (16, "float32", None)
    transform = recipe.make_task()._transform
    assert (transform.sides, transform.scale) == ((512, 2048), (0.5, 2.0))
    assert (augmentation.largest_share, augmentation.flip) == (0.75, 0.5)


@pytest.mark.parametrize("network, rate_1x", [("retinanet", 1e-4), ("mask-rcnn", 2e-4)])
@pytest.mark.parametrize(
    "name, drop_path, decay, spared",
    [
        ("t_1x", 0.2, 1e-3, ()),
        ("s_1x", 0.3, 1e-4, ()),
        ("t_3x", 0.3, 0.05, ("norm", "peg")),
        ("s_3x", 0.3, 0.1, ("norm", "peg")),
    ],
)
def test_coco_recipes_are_the_papers(network, rate_1x, name, drop_path, decay, spared):
    recipe = load_recipe(f"coco-{network}-{name}", ["data.name=folder:coco"])
    model, optimizer, augmentation = recipe.model, recipe.optimizer, recipe.augmentation
    assert (model.variant, model.drop_path_rate) == (f"sepvit_{name[0]}", drop_path)
    assert (model.image_size, model.channels, model.num_convs) == ((800, 1344), 256, 4)
    assert (model.weights, model.frozen_stages) == (None, 0)
    if network == "retinanet":
        assert (recipe.task, model.anchor_scale) == ("detection", 4.0)
    else:
        assert (recipe.task, model.anchor_scale) == ("instances", 8.0)
        assert (model.units, model.proposals, model.samples) == (1024, 1000, 512)
    # Rates and schedules: tests/test_optimizer.py.
    assert recipe.peak_learning_rate() == (rate_1x if name.endswith("1x") else 1e-4)
    assert (optimizer.weight_decay, optimizer.spared, optimizer.clip_norm) == (decay, spared, None)
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.999, 1e-8)
    assert (optimizer.layer_decay, optimizer.backbone_rate) == (1, 1)
    assert (recipe.batch_size, recipe.precision, recipe.ema_decay) == (16, "float32", None)
    assert (augmentation.flip, augmentation.distortion, augmentation.visible) == (0.5, False, 0)
    sides, longest = augmentation.sides(model.image_size)
    assert longest == 1333 and not recipe.data.keep_empty
    if name.endswith("1x"):
        assert (recipe.epochs, optimizer.milestones) == (12, (8, 11))
        assert (sides, augmentation.crops) == ((800,), 0)
    else:
        assert (recipe.epochs, optimizer.milestones) == (36, (27, 33))
        assert (sides, augmentation.crops) == ((*range(480, 801, 32),), 0.5)


def test_sides_of_pictures_follow_the_canvas():
    for size, sides in (((640, 640), (*range(320, 641, 32),)), ((128, 96), (64, 96))):
        changes = [f"model.image_size=[{size[0]},{size[1]}]", "data.name=folder:x"]
        recipe = load_recipe("finetune_detector", changes)
        assert recipe.augmentation.sides(size) == (sides, max(size))


def test_learning_rate_follows_the_batch():
    assert load_recipe("imagenet_t", ["batch_size=256"]).peak_learning_rate() == 2.5e-4


@pytest.mark.parametrize(
    "changes, updates",
    [
        (["epochs=1"], 25),
        (["epochs=1", "optimizer.warmup_epochs=0.5"], 50),
        (["epochs=6"], 500),
        (["epochs=1", "steps=9000"], 500),  # of which epochs are none
    ],
)
def test_a_single_epoch_is_no_warmup_alone(changes, updates):
    assert load_recipe("imagenet_t", changes).warmup_updates(updates_per_epoch=100) == updates


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_their_files(name, tmp_path):
    recipe = load_recipe(name, ["model.weights=w.weights.h5", "data.name=folder:/images"])
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_a_file_starts_from_a_named_recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: imagenet_b\nepochs: 100\noptimizer:\n  clip_norm: 5\n")
    recipe = load_recipe(path, ["augmentation.crop_scale=[0.2,1]"])
    assert recipe.model.variant == "sepvit_b"
    assert (recipe.epochs, recipe.optimizer.clip_norm) == (100, 5.0)
    assert recipe.optimizer.warmup_epochs == 20
    assert recipe.augmentation.crop_scale == (0.2, 1.0)
    named = load_recipe("imagenet_b")
    assert dataclasses.replace(recipe, epochs=300).model == named.model


def test_named_recipes_do_not_change():
    load_recipe("digits", ["epochs=7"])
    assert load_recipe("digits").epochs == RECIPES["digits"].epochs != 7


@pytest.mark.parametrize(
    "text",
    ["folder:/data/set #2", "no", "1e3", "007", "@x", "[a", "a: b", "'q'", "a=b", "${x}", "null"],
)
def test_text_is_taken_as_it_is_typed(text):
    assert load_recipe("imagenet_t", [f"data.name={text}"]).data.name == text
    optional = load_recipe("imagenet_t", [f"data.data_dir={text}"]).data.data_dir
    assert optional == (None if text == "null" else text)


@pytest.mark.parametrize(
    "changes, message",
    [
        (["bach_size=3"], r"bach_size is no key .* mean batch_size\?"),
        (["optimizer.lr=1e-3"], r"optimizer.lr is no key .* mean optimizer.learning_rate\?"),
        (["lr=1e-3"], r"lr is no key .* mean optimizer.learning_rate\?"),
        (["variant=sepvit_s"], r"variant is no key .* mean model.variant\?"),
        (["augment.mixup=0"], r"augment.mixup is no key .* mean augmentation.mixup\?"),
        (["data.dir=/data"], r"data.dir is no key .* mean data.data_dir\?"),
        (["data.path=/data"], r"data.path is no key .*'imagenet_t'. Keys: data.name, "),
        (["data.name.x=1"], "data.name.x is no key"),
        (["--epochs=3"], r"mean epochs\?"),
        (["data=folder:/data"], "data is a group of keys .* data.name"),
        (["=3"], "key=value"),
        (["batch_size=many"], "batch_size must be a whole number.* Received: batch_size=many"),
        (["epochs=null"], "epochs must be a whole number. Received: epochs=None"),
        (["jit_compile=maybe"], "jit_compile must be true or false or null"),
        (["augmentation.mixup=much"], "augmentation.mixup must be a number"),
        (
            ["augmentation.crop_scale=0.5"],
            r"crop_scale must be a list of 2 numbers, such as \[0.5, 1",
        ),
        (["optimizer.milestones=[3,a]"], "milestones must be a list of numbers"),
        (
            ["optimizer.spared=norm"],
            r"spared must be a list of words, such as \[norm,peg\] or null",
        ),
        (["optimizer.backbone_rate=null"], "backbone_rate must be above 0"),
        (["optimizer.warmup_ratio=2"], "warmup_ratio must be from 0 to 1"),
        (["images=0"], "images must be at least 1"),
        (["optimizer.learning_rate=inf"], "learning_rate must be finite"),
        (["augmentation.auto_augment=randm9"], "augmentation.auto_augment: .*'randm9'"),
        (["augmentation.auto_augment=rand-m99"], "augmentation.auto_augment: .*magnitude=99"),
        (["augmentation.interpolation=nearest"], "interpolation must be one of .* random"),
        (["augmentation.crop_scale=[0.5,1.5]"], "crop_scale must be at most 1"),
        (["augmentation.color_jitter=1.5"], "color_jitter must be from 0 to 1"),
        (["batch_size=@x"], "batch_size cannot have this value"),
        (["epochs"], "key=value"),
        (["epochs=0"], "epochs must be at least 1"),
        (["accumulate=5"], "divisor of batch_size"),
        (["precision=float64"], "mixed_bfloat16"),
        (["model.variant=swin_t"], "sepvit_lite"),
        (["ema_decay=1.0"], "below 1"),
        (["optimizer.warmup_epochs=300"], "below epochs"),
        (["optimizer.warmup_epochs=-1"], "warmup_epochs must be at least 0"),
        (["task=segmentation"], "task must be one of classification"),
        (["model.frozen_stages=5"], "one of 0, 1, 2, 3, 4"),
        (["steps=0"], "steps must be at least 1"),
        (["optimizer.schedule=linear"], "one of cosine, polynomial, steps"),
        (["optimizer.milestones=[3,2]"], "rising"),
        (["augmentation.mixing_group=0"], "mixing_group must be at least 1"),
        (["augmentation.crop_scale=[1.0,0.5]"], "rising"),
    ],
)
def test_refused_changes_name_the_key(changes, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("imagenet_t", changes)


def test_a_folder_has_a_recipe_by_task(tmp_path):
    recipe = load_recipe(tmp_path, task="segmentation")
    assert (recipe.task, recipe.data.name) == ("segmentation", f"folder:{tmp_path}")
    assert load_recipe(tmp_path).task == "classification"
    for task in ("detection", "instances"):
        recipe = load_recipe(tmp_path, ["model.num_convs=2"], task=task)
        assert (recipe.task, recipe.data.name) == (task, f"folder:{tmp_path}")
    message = "one of classification, segmentation, detection, instances"
    with pytest.raises(ValueError, match=message):
        load_recipe(tmp_path, task="boxes")
    with pytest.raises(ValueError, match="as in: keras-sepvit train --task detection FOLDER"):
        load_recipe("finetune_detector")
    with pytest.raises(
        ValueError, match="'digits' is one of classification. .*task='segmentation'"
    ):
        load_recipe("digits", task="segmentation")


@pytest.mark.parametrize(
    "change, message",
    [
        ("model.head=deeplab", "model.head must be one of semantic_fpn, upernet"),
        ("model.variant=sepvit_digits", "sepvit_scenes"),
        (
            "model.image_size=512",
            r"image_size must be a list of 2 whole numbers, such as \[512, 512\]\.",
        ),
        ("augmentation.sides=[1.5,2]", r"sides must be a list of 2 whole numbers, such as \[512"),
        ("model.image_size=[0,64]", "image_size must be two sides, at least 1"),
        ("model.channels=0", "channels must be at least 1"),
        ("augmentation.sides=[2048,512]", "sides must be two numbers above 0 in rising order"),
        ("augmentation.largest_share=0", "largest_share must be above 0"),
    ],
)
def test_refused_changes_of_segmentation(change, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("segment_digits", [change])


@pytest.mark.parametrize(
    "change, message",
    [
        ("model.variant=sepvit_x", "sepvit_scenes"),
        ("model.head=upernet", "model.head is no key"),
        ("model.anchor_scale=0", "anchor_scale must be above 0"),
        ("model.frozen_stages=5", "one of 0, 1, 2, 3, 4"),
        ("model.frozen_stages=1", "frozen_stages must be 0 without model.weights"),
        ("model.image_size=[16,64]", "image_size must be two sides, at least 32"),
        ("model.num_convs=-1", "num_convs must be at least 0"),
        ("augmentation.short_sides=[800,1000]", r"the shorter one of model.image_size \(800\)"),
        ("augmentation.short_sides=[]", "augmentation.short_sides must be sides from 1"),
        ("augmentation.long_side=700", r"short_sides \(800\) to the longer side .* \(1344\)"),
        ("augmentation.crops=1.5", "crops must be from 0 to 1"),
        ("augmentation.visible=1", "visible must be at least 0 and below 1"),
    ],
)
def test_refused_changes_of_detection(change, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("coco_retinanet_t_1x", ["data.name=folder:coco", change])


@pytest.mark.parametrize(
    "change, message",
    [
        ("model.anchor_scale=0", "anchor_scale must be above 0"),
        ("model.units=0", "units must be at least 1"),
        ("model.proposals=0", "proposals must be at least 1"),
        ("model.samples=3", "samples must be at least 4"),
    ],
)
def test_refused_changes_of_instance_segmentation(change, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("instances_digits", [change])


def test_what_a_recipe_leaves_to_the_user_is_asked_for():
    with pytest.raises(ValueError, match="model.weights=VALUE"):
        load_recipe("finetune", ["data.name=digits"])


def test_unknown_recipes(tmp_path):
    with pytest.raises(FileNotFoundError, match="imagenet_b"):
        load_recipe("imagenet_xl")
    with pytest.raises(FileNotFoundError, match="Unknown recipe: ''"):
        load_recipe("")
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ValueError, match="mapping"):
        load_recipe(path)
    for content, message in {
        b"epochs: [1": "no YAML",
        b"epochs: 1\nepochs: 2": "duplicate key epochs",
        b"\xff\xfee": "no text. Pictures are trained on as a folder",
        b"optimizer: {lr: 1}": "mean optimizer.learning_rate",
        b"optimizer: 3": "optimizer is a group of keys",
        b"epochs: ten": "epochs must be a whole number",
        b"data: {name: '${x}'}": "'x' not found",
        b"augmentation: {auto_augment: randm9}": "augmentation.auto_augment: ",
    }.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_recipe(path)
    path.write_text("recipe: nothing\n")
    with pytest.raises(ValueError, match="nothing"):
        load_recipe(path)


def test_a_recipe_is_a_recipe():
    assert load_recipe(ClassificationRecipe()) == ClassificationRecipe()


def test_public_names():
    assert all(hasattr(training, name) for name in training.__all__)
    assert training.load_recipe is load_recipe
    with pytest.raises(AttributeError, match="nothing"):
        training.nothing  # noqa: B018
