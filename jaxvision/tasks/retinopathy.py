"""Referable diabetic retinopathy from photographs graded 0 to 4: one logit, and the evaluation protocol of a strong baseline.

"A ResNet is All You Need?" (Castilla, Martinez, Leguia, Larrabide, Orlando 2022, arXiv 2210.03180) shows that a plain ResNet-18 with standard
preprocessing, pooled sources and a calibrated augmentation policy detects referable retinopathy (grade 2, moderate, or worse) about as well as
anything, and evaluates it by image and patient, by grade, and by uncertainty. The paper leaves most settings open; those here are ours: the positive
class weighs as much as the negative one, a patient has the larger of the eyes' probabilities, intervals are bootstrapped over images.

Figures of the test split: `auc` with `auc_low` and `auc_high` (95 % over 1,000 resamples), `auc_patient`, `auc_grade2` and so on (that grade
against those that are not referable), `sensitivity_95` (at 95 % specificity), `kappa` (quadratic, of the yes-or-no answer at one half),
`entropy`, and `auc_certain` (without the fifth of the images with the largest predictive entropy).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvision.augment.fundus import augment_fundus, check_policy
from jaxvision.errors import ConfigError, DataError, nearest
from jaxvision.tasks import metrics
from jaxvision.tasks.base import Task, total, weighted_mean
from jaxvision.tasks.networks import build_model

KEYS = ("name", "policy", "referable", "positive_weight", "resamples", "reject", "patient")
# How the probabilities of one patient's images become one.
PATIENTS = {"max": np.maximum.reduce, "mean": np.mean}


class Retinopathy(Task):
    """Keys of config.task.

    policy: names of augment.fundus.TRANSFORMS. referable: the least grade that is (2; sets with other scales have other ones). positive_weight: of
    referable images in the loss; their number is to be made up for, e.g. non-referable / referable (1). resamples: of the bootstrap (1000).
    reject: share of the images left out as uncertain (0.2). patient: "max" or "mean".
    """

    def __init__(self, config, problem):
        for key in config.task:
            if key not in KEYS:
                raise ConfigError(f"task.{key} is not a key of the task 'retinopathy'; {nearest(key, KEYS)}")
        get = config.task.get
        self.policy, self.referable = check_policy(get("policy", ())), get("referable", 2)
        self.positive_weight, self.resamples = float(get("positive_weight", 1.0)), get("resamples", 1000)
        self.reject, self.patient = float(get("reject", 0.2)), get("patient", "max")
        if not 0 < self.referable < len(problem.classes):
            raise DataError(f"the data have {len(problem.classes)} grades; task.referable={self.referable} has to lie among them, above the first")
        if self.patient not in PATIENTS:
            raise ConfigError(f"task.patient {self.patient!r} is unknown; {nearest(self.patient, PATIENTS)}")
        super().__init__(config, problem)

    def build(self):
        return build_model(self.config, num_classes=1)

    def prepare(self, batch, key, *, train: bool):
        if train and self.policy:
            policy_key, key = jax.random.split(key)
            batch = {**batch, "image": augment_fundus(policy_key, batch["image"], jnp.arange(batch["image"].shape[0]), self.policy)}
        batch = super().prepare(batch, key, train=train)
        return {**batch, "target": (batch["label"] >= self.referable).astype(jnp.float32)}

    def per_example_loss(self, logit, target):
        weight = jnp.where(target > 0, self.positive_weight, 1.0)
        return weight * optax.sigmoid_binary_cross_entropy(logit, target)

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        variables = {"params": params, **{name: extra[name] for name in ("batch_stats",) if name in extra}}
        logit, new = self.model.apply(variables, batch["image"], train=True, rngs={"dropout": key}, mutable=["batch_stats"])
        logit = logit[:, 0]
        value = weighted_mean(self.per_example_loss(logit, batch["target"]), batch["weight"])
        hit = (logit > 0) == (batch["target"] > 0)
        return value, {"metrics": {"accuracy": weighted_mean(hit, batch["weight"])}, "extra": dict(new)}

    def evaluate(self, variables, state, batch):
        logit = self.model.apply(variables, batch["image"], train=False)[:, 0]
        sums = {
            "loss": total(self.per_example_loss(logit, batch["target"]), batch["weight"]),
            "accuracy": total((logit > 0) == (batch["target"] > 0), batch["weight"]),
        }
        patient = batch.get("patient", batch["index"])
        return sums, {"probability": jax.nn.sigmoid(logit), "grade": batch["label"], "patient": patient}

    def summarize(self, rows, names):
        test = rows["test"]
        return evaluation(
            test["probability"], test["grade"], test["patient"], referable=self.referable, grades=len(names), resamples=self.resamples,
            reject=self.reject, patient_rule=self.patient,
        )  # fmt: skip

    def predict(self, state, batch):
        batch = Task.prepare(self, batch, state.key, train=False)
        probability = jax.nn.sigmoid(self.model.apply(self.variables(state), batch["image"], train=False)[:, 0])
        return {"referable": probability}


def evaluation(
    probability: np.ndarray,
    grade: np.ndarray,
    patient: np.ndarray,
    *,
    referable: int,
    grades: int,
    resamples: int,
    reject: float,
    patient_rule: str = "max",
) -> dict[str, float]:
    """The figures that the module's docstring names, of (N,) arrays. Those that the data do not determine (a grade that is absent) are left out."""
    positive = grade >= referable
    if positive.all() or not positive.any():
        raise DataError("the test data need photographs with and without referable retinopathy")
    figures = {"auc": metrics.auc(positive, probability)}
    if resamples:
        figures["auc_low"], figures["auc_high"] = metrics.bootstrap(metrics.auc, (positive, probability), resamples=resamples)
    people, person = np.unique(patient, return_inverse=True)
    if len(people) < len(patient):
        of_patient = [PATIENTS[patient_rule](probability[person == i]) for i in range(len(people))]
        ill = [positive[person == i].any() for i in range(len(people))]
        figures["auc_patient"] = metrics.auc(np.asarray(ill), np.asarray(of_patient))
    for number in range(referable, grades):
        chosen = ~positive | (grade == number)
        if (grade == number).any():
            figures[f"auc_grade{number}"] = metrics.auc(positive[chosen], probability[chosen])
    figures["sensitivity_95"] = metrics.sensitivity_at(positive, probability, 0.95)
    figures["kappa"] = metrics.quadratic_kappa(positive.astype(int), (probability > 0.5).astype(int), 2)
    uncertain = metrics.entropy(probability)
    figures["entropy"] = float(uncertain.mean())
    certain = uncertain <= np.quantile(uncertain, 1 - reject)
    figures["auc_certain"] = metrics.auc(positive[certain], probability[certain])
    return {name: value for name, value in figures.items() if np.isfinite(value)}


TASK = Retinopathy
