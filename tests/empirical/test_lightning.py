"""The callback in a real Lightning trainer, and the monitor's log in real TensorBoard files."""

import pytest
import torch
from torch import nn

from tests.empirical.measure.conftest import smooth_network, toy_data

# Lightning and TensorBoard warn about workers, versions and deprecations of their own.
pytestmark = pytest.mark.filterwarnings("ignore")
CE = nn.CrossEntropyLoss(reduction="none")
SETTINGS = {"top_k": 2, "samples": 64}


def scalars(folder):
    """Tag to steps, of all event files below a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for path in folder.rglob("events.out.*"):
        events = EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend(event.step for event in events.Scalars(tag))
    return found


@pytest.fixture
def fitting(tmp_path, monkeypatch):
    lightning = pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.loggers import TensorBoardLogger

    from empirical.lightning import AssumptionCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = smooth_network().float()

        def forward(self, x):
            return self.network(x)

        def training_step(self, batch, _):
            return CE(self(batch[0]), batch[1]).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    def fit(**options):
        x, y = toy_data(96)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x.float(), y), batch_size=32)
        callback = AssumptionCallback(CE, settings=SETTINGS, **options)
        trainer = lightning.Trainer(
            max_epochs=4,
            accelerator="cpu",
            logger=TensorBoardLogger(tmp_path),
            callbacks=[callback],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            log_every_n_steps=1,
        )
        module = Module()
        trainer.fit(module, loader)
        return trainer, module, callback

    return fit


def test_a_lightning_run_is_measured_every_other_epoch_and_logged_to_tensorboard(fitting, tmp_path):
    trainer, module, callback = fitting(every=2)
    assert sorted(callback.reports) == [0, 2] and trainer.current_epoch == 4
    assert callback.reports[2].stability.supported and module.trainer is trainer
    assert scalars(tmp_path)["spikeshrink/stability"] == [0, 2]
    # It measures the run's own weights: they have moved between the two.
    assert callback.reports[0].stability.estimate != callback.reports[2].stability.estimate


def test_a_lightning_run_stops_at_an_edge(fitting):
    trainer, _, callback = fitting(stop={"stability": 1e-6})
    assert trainer.current_epoch == 1 and sorted(callback.reports) == [0]


def test_a_limit_that_cannot_be_watched_is_refused_before_training(fitting):
    with pytest.raises(ValueError, match="must name one of"):
        fitting(stop={"stabilty": 1.0})


def test_a_plain_loop_logs_to_tensorboard(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    from empirical.monitor import AssumptionMonitor

    x, y = toy_data(96)
    model = smooth_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with SummaryWriter(tmp_path) as writer:
        monitor = AssumptionMonitor(
            model, CE, [(x, y)], optimizer, every=3, writer=writer, settings={"top_k": 2, "batch_size": 32}
        )
        assert [monitor(epoch) for epoch in range(4)] == [False] * 4
    assert scalars(tmp_path)["spikeshrink/stability"] == [0, 3]
