"""Spectrograms, and images of any number of bands."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset
from transformers import ASTConfig, ASTForAudioClassification

from lightning_cam import TokenLayout, TransformerCAMCallback, explain
from lightning_cam.model.untouched import looking
from lightning_cam.training.unlogged import unlogged
from tests.observed.data import Base, Plain, loaders, vit
from tests.observed.passt import Mel, Passt, Waveforms, Wrapped
from tests.observed.run import fit
from tests.training import compare

TIME, MELS, MARK = 96, 48, 16
NAMED = {
    "hugging face": lambda x, y, i: {"input_values": x, "labels": y},
    "rows are frequencies": lambda x, y, i: {"spectrogram": x.T[None], "label": y},
    "PaSST": lambda x, y, i: {"mel": x.T[None], "label": y},
}


class Tones(Dataset):
    """Noise (time, frequency) with a mark at a random place: steady, pulsing in time or of several tones, the class."""

    def __init__(self, count=24, seed=0, pack=NAMED["hugging face"]):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, TIME, MELS, generator=generator) * 0.3
        self.y = torch.arange(count) % 3
        self.times = torch.randint(0, TIME // MARK, (count,), generator=generator) * MARK
        self.tones = torch.randint(0, MELS // MARK, (count,), generator=generator) * MARK
        waves = torch.tensor([3.0, 3.0, -3.0, -3.0] * 4)
        marks = [torch.full((MARK, MARK), 3.0), waves[:, None].expand(MARK, MARK), waves.expand(MARK, MARK)]
        for sound, label, time, tone in zip(
            self.x, self.y.tolist(), self.times.tolist(), self.tones.tolist(), strict=True
        ):
            sound[time : time + MARK, tone : tone + MARK] += marks[label]
        self.pack = pack

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.pack(self.x[index], self.y[index], index)


def sounds(count=24, **options):
    return DataLoader(Tones(count, 1, **options), 8, shuffle=True), DataLoader(Tones(16, 2, **options), 8)


def ast(stride=10):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 2}
    strides = {"frequency_stride": stride, "time_stride": stride}
    return ASTForAudioClassification(ASTConfig(max_length=TIME, num_mel_bins=MELS, num_labels=3, **sizes, **strides))


def passt(stride=10, patchout=(2, 1)):
    torch.manual_seed(0)
    return Passt((MELS, TIME), stride, patchout=patchout)


def spectrogram_vit():
    return vit(in_chans=1, size=(MELS, TIME))


class HuggingFace(Base):
    def loss(self, batch):
        return self.model(**batch).loss


class WithFeatures(Plain):
    """Whose network returns logits and features."""

    def loss(self, batch):
        x, y = self.xy(batch)
        return self.criterion(self(x)[0], y)


class Sounds(Plain):
    """Makes the spectrogram in its step."""

    def loss(self, batch):
        sound, label = batch
        power = torch.stft(sound, 2 * MELS - 2, hop_length=16, return_complex=True, window=torch.hann_window(94)).abs()
        return F.cross_entropy(self.model((power + 1e-3).log()[:, None, :, :TIME]), label)


def callback(**options):
    return TransformerCAMCallback(**{"report": False, "timelapse": None, "cohort": None, **options})


def fitted(name, tmp_path, epochs=1, count=24, **options):
    module = {
        "hugging face": lambda: HuggingFace(ast()),
        "rows are frequencies": lambda: Plain(spectrogram_vit(), keys=("spectrogram", "label")),
        "PaSST": lambda: WithFeatures(passt(), keys=("mel", "label")),
    }[name]()
    return fit((module, *sounds(count, pack=NAMED[name])), tmp_path, epochs, callback(**options))


def places(maps):
    """Row and column of the largest value of each map, of the middle of such, as parts of its sides."""
    largest = (maps > maps.amax((1, 2), keepdim=True) * 0.999).double()
    middles = []
    for axis in (1, 2):
        side = largest.sum(3 - axis)
        middles.append((side * (torch.arange(side.shape[1]) + 0.5)).sum(1) / side.sum(1) / side.shape[1])
    return middles


def _near(places, starts):
    """Whether places are in a mark, or in a patch that overlaps with it by half."""
    return (places - starts - MARK / 2).abs() < MARK * 0.75


@pytest.mark.parametrize("name", NAMED)
def test_a_change_is_shown_where_it_is(tmp_path, name):
    result = fitted(name, tmp_path, methods="hirescam")
    assert not result.off and any("low frequencies at the bottom" in text for text in result.said)
    explainer, images = result.shown[0].explainer, result.probe.images[:2]
    assert images.shape == (2, 1, MELS, TIME)
    layer, (view,) = explainer.found.layers[-1], explainer._forward.views
    outputs = []
    handle = layer.module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with unlogged(result.module.trainer, result.module), looking(result.module), torch.no_grad():
        view.forward(images.clone())
        for row, column in ((0, 0), (1, 4), (2, 2)):
            changed = images.clone()
            square = changed[..., row * MARK : (row + 1) * MARK, column * MARK : (column + 1) * MARK]
            square += 0.3 * torch.randn(square.shape, generator=torch.Generator().manual_seed(3))
            view.forward(changed)
            moved = view.undo(layer.on_image(layer.layout.to_grid(outputs[-1] - outputs[0]).norm(dim=1)))
            down, across = places(moved)
            assert (_near(down * MELS, row * MARK) & _near(across * TIME, column * MARK)).all()
    handle.remove()


def test_maps_of_ast_are_those_of_a_slow_reference(tmp_path):
    """On patches side by side, where cells of the map are those of the model."""
    result = fit((HuggingFace(ast(stride=16)), *sounds()), tmp_path, 1, callback(methods="hirescam"))
    model = result.module.model.double().eval()
    probe, seen = result.probe, []
    layer = model.audio_spectrogram_transformer.layers[-1].layernorm_before
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    given = probe.images[:, 0].flip(1).transpose(1, 2).double()  # (B, time, frequency)
    logits = model(given.requires_grad_()).logits
    (gradient,) = torch.autograd.grad(logits[torch.arange(16), probe.labels].sum(), seen)
    handle.remove()
    tokens = (seen[0] * gradient).sum(2)[:, 2:]
    slow = torch.zeros(16, 3, 6, dtype=torch.float64)
    for frequency in range(3):
        for time in range(6):
            slow[:, 2 - frequency, time] = tokens[:, frequency * 6 + time]
    assert_close(result.looks[-1].maps["hirescam"].double(), slow, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", NAMED)
def test_the_hottest_place_is_the_tone(tmp_path, name):
    result = fitted(name, tmp_path, 21, 192, every_n_epochs=20)
    look, data = result.looks[-1], Tones(16, 2)
    assert (look.probabilities.argmax(1) == data.y).sum() >= 15, "it has not learned"
    down, across = places(look.maps["attnlrp"])
    at_tone = _near(MELS - down * MELS, data.tones)  # low ones are at the bottom
    assert (at_tone & _near(across * TIME, data.times)).sum() >= 11  # 2 by chance


def test_a_spectrogram_that_the_step_makes(tmp_path):
    pack = lambda x, y, i: (torch.randn(TIME * 16, generator=torch.Generator().manual_seed(i)), y)  # noqa: E731
    result = fit((Sounds(spectrogram_vit()), *sounds(pack=pack)), tmp_path, 1, callback(methods="hirescam"))
    assert not result.off and any("spectrograms" in text for text in result.said)
    with torch.no_grad():
        power = torch.stft(pack(0, 0, 0)[0], 94, hop_length=16, return_complex=True, window=torch.hann_window(94)).abs()
    assert_close(result.probe.images[0, 0], (power + 1e-3).log()[:, :TIME].flip(0))


def waves(x, y, i):
    return torch.randn(1, TIME * 16 + 300, generator=torch.Generator().manual_seed(i)), f"{i}.wav", y


@pytest.mark.parametrize("kind", ["in the step", "in the network"])
def test_passt_on_waveforms(tmp_path, kind):
    """Its filter before the spectrogram is no network, and the image is the spectrogram, low frequencies below."""
    if kind == "in the step":
        made = Waveforms((MELS, TIME)), *sounds(pack=waves)
    else:
        made = Plain(Wrapped((MELS, TIME))), *sounds(pack=lambda x, y, i: (waves(x, y, i)[0][0], y))
    result = fit(made, tmp_path, 1, callback(methods="hirescam"))
    assert not result.off and any("low frequencies at the bottom" in text for text in result.said), result.said
    assert_close(result.probe.images[:, 0], Mel(MELS, TIME)(torch.cat([waves(0, 0, i)[0] for i in range(16)])).flip(1))
    layer = result.shown[0].explainer.found.layers[-1]
    assert layer.layout == TokenLayout("NLC", (4, 9), 2)


def test_maps_of_passt_are_those_of_a_slow_reference():
    """Without the callback: with the rows of its own images, frequencies from the top down as they are given."""
    model, images = passt(stride=16).double().eval(), Tones(3).x.transpose(1, 2)[:, None].double()
    kept = []
    handle = model.blocks[1].norm1.register_forward_hook(lambda module, inputs, output: kept.append(output))
    (gradient,) = torch.autograd.grad(model(images)[0][:, 2].sum(), kept)
    handle.remove()
    tokens = (kept[0] * gradient).sum(2)
    slow = torch.zeros(3, 3, 6, dtype=torch.float64)
    for frequency in range(3):
        for time in range(6):
            slow[:, frequency, time] = tokens[:, 2 + frequency * 6 + time]
    explanation = explain(model, images, ["hirescam", "attnlrp"], class_idx=2)
    assert_close(explanation.maps["hirescam"].double(), slow, rtol=1e-4, atol=1e-8)
    assert explanation.maps["attnlrp"].shape == (3, 3, 6) and not explanation.unknown


def test_axes_of_the_user(tmp_path):
    pack = lambda x, y, i: (x.T[None], y)  # noqa: E731
    made = Plain(spectrogram_vit()), *sounds(pack=pack)
    plain = fit(made, tmp_path, 1, callback(methods="hirescam"))
    turned = fit(made, tmp_path, 1, callback(methods="hirescam", axes=["frequency", "time"]))
    assert torch.equal(turned.probe.images, plain.probe.images.flip(2))


def test_a_probe_of_the_user(tmp_path):
    given = Tones(4, 5).x  # (B, time, frequency)
    result = fit((HuggingFace(ast()), *sounds()), tmp_path, 1, callback(methods="hirescam", probe=given))
    assert not result.off and torch.equal(result.probe.images[:, 0], given.transpose(1, 2).flip(1))
    assert not any("after the validation transform" in text for text in result.said)


@pytest.mark.parametrize("name", ["hugging face", "PaSST"])
def test_training_is_the_same_bit_for_bit(tmp_path, name):
    """Also where what is left out of an image, and what is mixed up, is drawn."""
    pack = waves if name == "PaSST" else NAMED[name]
    make = {"train_loader": lambda: sounds(pack=pack)[0], "val_loader": lambda: sounds(pack=pack)[1]}
    module = HuggingFace(ast()) if name == "hugging face" else Waveforms((MELS, TIME))
    compare(tmp_path, make=lambda: copy.deepcopy(module), max_epochs=1, **make)


def test_an_image_without_channels_is_none_of_sound(tmp_path):
    class Gray(Plain):
        def forward(self, x):
            return self.model(x.unsqueeze(1))

    result = fit((Gray(vit(in_chans=1)), *loaders(channels=1, pack=lambda x, y, i: (x[0], y))), tmp_path)
    assert not result.off and result.found == 4 and not any("spectrogram" in text for text in result.said)


def sentinel(x, y, i):
    return x * 9000 + 500, y  # reflectance of 16 bits


@pytest.mark.parametrize(("channels", "rgb"), [(12, [3, 2, 1]), (12, None), (2, None), (2, 1), (1, None)])
def test_bands_without_a_known_range(tmp_path, channels, rgb):
    made = Plain(vit(in_chans=channels)), *loaders(channels=channels, pack=sentinel)
    result = fit(made, tmp_path, callback=callback(methods="hirescam", rgb=rgb))
    assert not result.off and result.found == 4
    bands = rgb if isinstance(rgb, list) else [0, 1, 2] if rgb is None and channels > 2 else [rgb or 0]
    shown = result.runs[0].images.float() / 255
    for color in range(3):
        values = made[2].dataset.x[:, bands[color % len(bands)]].double() * 9000 + 500
        ordered = values.flatten().sort().values
        low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.02, 0.98))
        assert_close(shown[:, color].double(), ((values - low) / (high - low)).clamp(0, 1), rtol=0, atol=0.01)
    said = "bands 3, 2 and 1 as colors" if isinstance(rgb, list) else "98th percentile"
    assert said in result.runs[0].text


class Radar(nn.Sequential):
    """A convolutional network of two polarizations."""

    def __init__(self):
        layers = [nn.Conv2d(2, 16, 3, 4, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 4, 1), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))


def test_two_bands_of_a_radar(tmp_path):
    result = fit((Plain(Radar()), *loaders(channels=2, pack=sentinel)), tmp_path)
    assert not result.off and result.found == 4


@pytest.mark.parametrize("rgb", [[0, 1], [], -1])
def test_numbers_of_bands_that_do_not_fit(rgb):
    with pytest.raises(ValueError, match="rgb: expected one or three band indices"):
        TransformerCAMCallback(rgb=rgb)
