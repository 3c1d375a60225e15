"""A training run in memory, advanced one optimizer step at a time.

`Trainer.step` is the whole of a training iteration: draw the batch, augment it, attack it, perturb the weights where
the method says so, take the gradient, step. It keeps no books: losses and accuracies come from the forward that
the gradient needs anyway. Files, signals and progress belong to `empirical.training.run`.

Cost of a PGD-10 AT step in forwards of the batch (an input-gradient or weight-gradient backward counts as one each):
23 = 10 × (1 + 1) + 3; with AWP 26. The published code's bookkeeping and discarded weight gradients make it 35 and 38.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from empirical.data.augmentation import augment, draw_augmentation
from empirical.data.resident import Data, epoch_order
from empirical.data.streams import derived_seed, generator
from empirical.network.build import build_network
from empirical.settings.attack import PGD
from empirical.settings.awp import AWP
from empirical.settings.precision import Autocast
from empirical.settings.training import Training
from empirical.training.attack import draw_starts, forward, pgd_from
from empirical.training.awp import awp, perturbed_weights
from empirical.training.checkpoint import Checkpoint
from empirical.training.distributed import SINGLE, World
from empirical.training.graph import GraphedAttack
from empirical.training.loss import summed_loss

__all__ = ["Step", "Trainer"]

#: The type inside the network under each `Precision.autocast`; None leaves it alone.
AUTOCAST: Mapping[Autocast, torch.dtype | None] = {"none": None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Step:
    """What one iteration did. `loss` and `accuracy` are scalars on the device, of the batch that was trained on.

    For AT and AWP they are robust and in train mode; with AWP the loss is taken at the perturbed weights.
    """

    iteration: int  # the index of this step, from 0
    epoch: int
    learning_rate: float
    loss: Tensor
    accuracy: Tensor
    #: Of the unperturbed batch after the step, in train mode, where the published script logs them (`faithful`).
    clean_loss: Tensor | None = None
    clean_accuracy: Tensor | None = None


def _compiled(model: nn.Module) -> nn.Module:
    """The network compiled for each shape of batch that comes: the full one, and an epoch's last.

    Left to itself the compiler answers a second shape with a graph for any shape, which is slower and is used for the
    full batches too from then on; and a run resumed in between, which has not seen the second shape yet, would differ.
    """
    return torch.compile(model, dynamic=False)  # pyright: ignore[reportReturnType]


class Trainer:
    """A run at some iteration: network, optimizer, data, and the position in every random stream.

    Args:
        setting: what is trained.
        seed: root seed of initialisation, data order, augmentation and attacks.
        data: `load_data(setting.data)`, on `device`.
        device: where to compute.
        world: this process among several.
    """

    def __init__(
        self,
        setting: Training,
        *,
        seed: int,
        data: Data,
        device: torch.device | str = "cpu",
        world: World = SINGLE,
    ) -> None:
        self.setting, self.seed, self.data, self.world = setting, seed, data, world
        self.device = torch.device(device)
        self.iteration = 0
        self.rates = setting.rates()
        model = build_network(setting.network, seed=derived_seed(seed, "initialization"))
        self.model = model.to(self.device)
        if setting.precision.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if setting.sync_batch_norm:
            self.model = world.synchronized(self.model, self.device)
        self._fast: nn.Module = _compiled(self.model) if setting.precision.compile else self.model
        self._synced: nn.Module = DistributedDataParallel(self._fast) if world.size > 1 else self._fast
        optimizer = setting.optimizer
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=optimizer.learning_rate,
            momentum=optimizer.momentum,
            dampening=optimizer.dampening,
            weight_decay=optimizer.weight_decay,
            nesterov=optimizer.nesterov,
        )
        self.average: dict[str, Tensor] | None = None
        if setting.ema_decay:
            self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.swa: dict[str, Tensor] | None = None  # mean of the weights after the epochs from `swa_start` on
        self._order: tuple[int, Tensor] | None = None
        self._graphs: dict[tuple[PGD, int, bool], GraphedAttack] = {}

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        data: Data,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        world: World = SINGLE,
    ) -> Trainer:
        """Continue from a checkpoint: to the bit with its own seed, as a fresh branch with another `seed`.

        A branch has the same weights, momentum and data, and its own data order, augmentation and attack starts.

        Raises:
            ValueError: if `data` is not the data that the checkpoint was trained on.
        """
        if data.digest != checkpoint.data_digest:
            raise ValueError(
                f"`Trainer.from_checkpoint(data=...)` must be the data it was trained on (digest "
                f"{checkpoint.data_digest}); got {data.digest}."
            )
        trainer = cls(
            checkpoint.setting,
            seed=checkpoint.seed if seed is None else seed,
            data=data,
            device=device,
            world=world,
        )
        trainer.iteration = checkpoint.iteration
        trainer.model.load_state_dict(checkpoint.model.state_dict())
        for name, parameter in trainer.model.named_parameters():
            if name in checkpoint.momentum:
                kept = checkpoint.momentum[name].to(parameter)
                trainer.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(kept)
        if checkpoint.swa is not None:
            trainer.swa = {name: checkpoint.swa[name].to(value) for name, value in trainer.model.named_parameters()}
        if checkpoint.average is not None:
            trainer.average = {
                name: checkpoint.average[name].to(value).clone() for name, value in trainer.model.state_dict().items()
            }
        return trainer

    @property
    def epoch(self) -> int:
        """Completed epochs."""
        return self.iteration // self.setting.iterations_per_epoch

    def momentum(self) -> dict[str, Tensor]:
        """The optimizer's buffers by parameter name; empty before the first step and without momentum."""
        found = {}
        for name, parameter in self.model.named_parameters():
            buffer = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                found[name] = buffer
        return found

    def step(self) -> Step:
        """Run one iteration.

        Raises:
            ValueError: if the run is over.
        """
        if self.iteration >= len(self.rates):
            raise ValueError(f"`Trainer.step()` must not be called beyond the run's {len(self.rates)} iterations.")
        iteration, rate = self.iteration, float(self.rates[self.iteration])
        method = self.setting.method
        x, y, count = self._batch(iteration, fresh=False)
        self.model.train()
        adversarial = self._attacked(x, y, count, iteration, fresh=False)
        perturbation: Mapping[str, Tensor] = {}
        if method.awp is not None and self.epoch >= method.awp.warmup_epochs:
            perturbation = self._weight_perturbation(method.awp, x, adversarial, y, count, iteration)
        with perturbed_weights(self.model, perturbation):
            if perturbation and method.awp is not None and method.awp.recompute_attack:
                adversarial = self._attacked(x, y, count, iteration, fresh=False)
            self.optimizer.zero_grad(set_to_none=True)
            loss, logits = self._loss(self._synced, x, adversarial, y, count)
            loss.backward()
        if method.awp is not None and method.awp.weight_decay == "perturbed" and self.setting.optimizer.weight_decay:
            # The optimizer adds δ w to the gradient; published AWP steps while the weights are w + v, adding δ (w + v).
            parameters = dict(self.model.named_parameters())
            with torch.no_grad():
                for name, moved in perturbation.items():
                    gradient = parameters[name].grad
                    if gradient is not None:
                        gradient.add_(moved, alpha=self.setting.optimizer.weight_decay)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        clean = self._clean_books(x, y, count)
        self._update_average()
        self.iteration += 1
        self._update_swa()
        hits = (logits.detach().argmax(1) == y).sum()
        totals = self.world.sum(torch.stack([loss.detach().double() / self.world.size, hits.double() / count]))
        return Step(iteration, iteration // self.setting.iterations_per_epoch, rate, totals[0], totals[1], *clean)

    @torch.no_grad()
    def _clean_books(self, x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor] | tuple[()]:
        """Loss and accuracy of the clean batch as Rice et al. and AWP log them: after the step, moving batch norm."""
        if not self.setting.faithful or self.setting.method.objective != "at":
            return ()
        logits = forward(self._fast, x, AUTOCAST[self.setting.precision.autocast])
        loss = summed_loss(self.setting.method.loss, logits, y).double() / count
        totals = self.world.sum(torch.stack([loss, (logits.argmax(1) == y).sum().double() / count]))
        return totals[0], totals[1]

    def _batch(self, iteration: int, *, fresh: bool) -> tuple[Tensor, Tensor, int]:
        """This process's pixels and labels, and the size of the global batch.

        A fresh batch, independent of the epoch's order, serves AWP's choice of another batch.
        """
        setting, train = self.setting, self.data.train
        epoch, position = divmod(iteration, setting.iterations_per_epoch)
        if self._order is None or self._order[0] != epoch:
            order = epoch_order(len(train), setting.order, seed=self.seed, epoch=epoch)  # pyright: ignore[reportArgumentType]
            self._order = (epoch, order.to(self.device))
        indices = self._order[1][position * setting.batch_size : (position + 1) * setting.batch_size]
        count = len(indices)
        if fresh:
            source = generator(self.seed, "awp", iteration, device=self.device)
            indices = torch.randint(0, len(train), (count,), generator=source, device=self.device)
        rows = self.world.rows(count)
        images = train.images[indices[rows]]
        if setting.data.augmentation != "none":
            source = generator(self.seed, "augmentation", iteration, int(fresh), device=self.device)
            images = augment(images, setting.data, draw_augmentation(count, setting.data, generator=source).part(rows))
        x = train.pixels(images)
        if setting.precision.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, train.labels[indices[rows]], count

    def _attacked(self, x: Tensor, y: Tensor, count: int, iteration: int, *, fresh: bool) -> Tensor:
        attack = self.setting.method.attack
        if attack is None:
            return x
        if self._attacks_in_eval_mode(iteration):
            attack = replace(attack, batch_norm="eval")
        source = generator(self.seed, "attack", iteration, int(fresh), device=self.device)
        shape = (count, *x.shape[1:])
        starts = draw_starts(shape, attack, generator=source, device=self.device, dtype=x.dtype)
        found = self._fast_attack(attack, x, y, starts[:, self.world.rows(count)], count == self.setting.batch_size)
        if self.setting.faithful and attack.batch_norm == "train":
            with torch.no_grad():  # the published attack ranks its restarts, of which there is one
                forward(self._fast, found, AUTOCAST[self.setting.precision.autocast])
        return found

    def _attacks_in_eval_mode(self, iteration: int) -> bool:
        """Whether AWP's CIFAR-10 script attacks this batch in the mode in which its test pass left the network."""
        setting = self.setting
        epoch, position = divmod(iteration, setting.iterations_per_epoch)
        return (
            setting.faithful
            and setting.method.name == "awp"
            and setting.data.name == "cifar10"
            and epoch > 0
            and position == 0
        )

    def evaluation_attack(self, attack: PGD, x: Tensor, y: Tensor, starts: Tensor) -> Tensor:
        """The attack of an evaluation by the arithmetic of training: as precise, compiled and graphed as that."""
        return self._fast_attack(attack, x, y, starts, len(x) == self.setting.evaluation.batch_size)

    def _fast_attack(self, attack: PGD, x: Tensor, y: Tensor, starts: Tensor, full: bool) -> Tensor:
        if self.setting.precision.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
            starts = starts.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, starts.shape[:2])
        if not (self.setting.precision.cuda_graph and full):
            return self._attack_once(attack, x, y, starts)
        # A graph has the mode of batch normalisation that it was captured in.
        key = (attack, len(x), self.model.training)
        if key not in self._graphs:
            self._graphs[key] = GraphedAttack(self._attack_once, self.model, attack, x, y, starts)
        return self._graphs[key](x, y, starts)

    def _attack_once(self, attack: PGD, x: Tensor, y: Tensor, starts: Tensor) -> Tensor:
        return pgd_from(self._fast, x, y, attack, starts, autocast=AUTOCAST[self.setting.precision.autocast])

    def _loss(self, network: nn.Module, x: Tensor, adversarial: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The global batch's mean loss as this process sees it (scaled so that averaging processes gives the mean).

        The second value is the logits of the inputs trained on: adversarial where there is an attack.
        """
        autocast, loss = AUTOCAST[self.setting.precision.autocast], self.setting.method.loss
        scale = self.world.size / count
        # TRADES' scripts forward the clean batch twice: before the adversarial one, or with AWP after the divergence.
        twice = self.setting.faithful and self.setting.method.objective == "trades"
        natural = forward(network, x, autocast) if twice and self.setting.method.awp is None else None
        logits = forward(network, adversarial, autocast)
        if self.setting.method.objective != "trades":
            return summed_loss(loss, logits, y) * scale, logits
        clean = forward(network, x, autocast)
        if natural is None:
            natural = forward(network, x, autocast) if twice else clean
        divergence = functional.kl_div(
            functional.log_softmax(logits, dim=1),
            functional.log_softmax(clean, dim=1),
            reduction="sum",
            log_target=True,
        )
        return (summed_loss(loss, natural, y) + self.setting.method.beta * divergence) * scale, logits

    def _weight_perturbation(
        self, setting: AWP, x: Tensor, adversarial: Tensor, y: Tensor, count: int, iteration: int
    ) -> Mapping[str, Tensor]:
        if setting.batch == "fresh":
            x, y, count = self._batch(iteration, fresh=True)
            adversarial = self._attacked(x, y, count, iteration, fresh=True)
        loss: Callable[[], Tensor] = lambda: self._loss(self._fast, x, adversarial, y, count)[0]  # noqa: E731
        return awp(self.model, loss, setting, reduce_gradients=self.world.average_ if self.world.size > 1 else None)

    @torch.no_grad()
    def _update_swa(self) -> None:
        start = self.setting.swa_start
        if start is None or self.iteration % self.setting.iterations_per_epoch or self.epoch < start:
            return
        if self.swa is None:
            self.swa = {name: value.detach().clone() for name, value in self.model.named_parameters()}
            return
        for name, value in self.model.named_parameters():
            self.swa[name].lerp_(value, 1 / (self.epoch - start + 1))

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average is None:
            return
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - self.setting.ema_decay)
            else:
                self.average[name].copy_(value)
