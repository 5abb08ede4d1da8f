"""Programs that run the VGGs and the ResNet of torchvision and of paddle.vision without this project's code, and record what they compute.

`PROGRAMS` take a folder, then names: `vgg16`, `vgg16_bn`, `resnet18` are the functions of these names; `D`, `D_bn`, ... are narrow VGGs.
Each writes its state dict as NAME.pt or NAME.pdparams, and as NAME.npz images, labels, inference, and a training step with its dropout
masks. With `shapes` instead of the folder, the shapes of every state dict are printed and nothing is computed.

`READERS` take a file of resnet18's state dict, NAME.npz of the above, and a file to write. They load the state dict into their class, with
nothing missing and nothing left over, and write its class scores for the images.
"""

from __future__ import annotations

COMMON = """
import json, sys
import numpy as np
place, names = sys.argv[1], sys.argv[2:]
WIDTH = 16

def plan_of(name):
    return [entry if entry == "M" else max(4, entry // WIDTH) for entry in cfgs[name[0]]]

def drawn(random, name, shape):
    "Numbers that neither die out nor grow on their way through nineteen layers, and none that a batch norm starts with."
    if len(shape) > 1:
        inputs = shape[0] if LINEAR_IN_FIRST and len(shape) == 2 else np.prod(shape[1:])
        return random.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / inputs))
    low, high = (0.5, 1.5) if name.endswith(POSITIVE) else (-0.1, 0.1)
    return random.uniform(low, high, shape).astype(np.float32)

def watched(name):
    "The parameters whose gradients are recorded."
    if name == "resnet18":
        return {"first": "conv1.weight", "shortcut": "layer2.0.downsample.0.weight", "last": "fc.bias"}
    return {"first": "features.0.weight", "last": "classifier.6.bias"}

def show(models):
    print(json.dumps({name: {key: list(t.shape) for key, t in model.state_dict().items()} for name, model in models}))

def batch(random, whole):
    return random.uniform(-1, 1, (1 if whole else 2, 3, 224, 224)).astype(np.float32), np.array([3, 7])[: 1 if whole else 2]
"""

PROGRAMS = {
    "torch": COMMON
    + """
import torch, torchvision
from torch import nn
from torchvision.models.vgg import VGG, cfgs, make_layers
LINEAR_IN_FIRST, POSITIVE = False, ("running_var",)

def made(name):
    with torch.device("meta"):  # no numbers yet
        if name.startswith(("vgg", "resnet")):
            return getattr(torchvision.models, name)()
        plan = plan_of(name)
        model = VGG(make_layers(plan, batch_norm=name.endswith("_bn")))
        one, two = nn.Linear(plan[-2] * 49, 32), nn.Linear(32, 32)
        model.classifier = nn.Sequential(one, nn.ReLU(), nn.Dropout(), two, nn.ReLU(), nn.Dropout(), nn.Linear(32, 10))
        return model

if place == "shapes":
    show((name, made(name)) for name in names)
    raise SystemExit
for name in names:
    random, masks = np.random.default_rng(1), []
    model = made(name).to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = float(np.float32(module.eps))  # as Paddle's kernels and our nodes have it
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _, given, y: masks.append(((y != 0) | (given[0] == 0)).numpy(force=True)))
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(drawn(random, key, tuple(tensor.shape))))
    torch.save(model.state_dict(), f"{place}/{name}.pt")
    images, labels = batch(random, name.startswith("vgg"))
    x = torch.from_numpy(images).double()
    model = model.double().eval()
    with torch.no_grad():
        found = {"images": images, "labels": labels, "eval": model(x).numpy()}
    masks.clear()
    trained = model.train()(x)
    nn.functional.cross_entropy(trained, torch.from_numpy(labels)).backward()
    parameters = dict(model.named_parameters())
    found |= {"train": trained.detach().numpy()}
    found |= {f"gradient/{where}": parameters[key].grad.numpy() for where, key in watched(name).items()}
    np.savez(f"{place}/{name}.npz", **found, **{f"mask{6 + i}": mask for i, mask in enumerate(masks)})
""",
    "paddle": COMMON
    + """
import paddle
from paddle import nn
from paddle.vision.models.vgg import VGG, cfgs, make_layers
LINEAR_IN_FIRST, POSITIVE = True, ("_variance",)

def made(name):
    if name.startswith("resnet"):
        return getattr(paddle.vision.models, name)()
    if name.startswith("vgg"):
        return getattr(paddle.vision.models, name.removesuffix("_bn"))(batch_norm=name.endswith("_bn"))
    plan = plan_of(name)
    model = VGG(make_layers(plan, batch_norm=name.endswith("_bn")), num_classes=0)
    model.num_classes = 10
    one, two = nn.Linear(plan[-2] * 49, 32), nn.Linear(32, 32)
    model.classifier = nn.Sequential(one, nn.ReLU(), nn.Dropout(), two, nn.ReLU(), nn.Dropout(), nn.Linear(32, 10))
    return model

if place == "shapes":
    with paddle.LazyGuard():  # no numbers
        show((name, made(name)) for name in names)
    raise SystemExit
for name in names:
    random, masks = np.random.default_rng(1), []
    model = made(name)
    for layer in model.sublayers():
        if isinstance(layer, nn.Dropout):
            layer.register_forward_post_hook(lambda _, given, y: masks.append((y.numpy() != 0) | (given[0].numpy() == 0)))
    for key, tensor in model.state_dict().items():
        tensor.set_value(drawn(random, key, tuple(tensor.shape)))
    paddle.save(model.state_dict(), f"{place}/{name}.pdparams")
    images, labels = batch(random, name.startswith("vgg"))
    model.to(dtype="float64")
    model.eval()
    x = paddle.to_tensor(images.astype(np.float64))
    with paddle.no_grad():
        found = {"images": images, "labels": labels, "eval": model(x).numpy()}
    masks.clear()
    model.train()
    if name.startswith("resnet"):  # the gradient of Paddle's pool divides by 49 in float32: 2e-8 off
        model.avgpool.forward = lambda x: x.mean([2, 3], keepdim=True)
    trained = model(x)
    nn.functional.cross_entropy(trained, paddle.to_tensor(labels)).backward()
    parameters = dict(model.named_parameters())
    found |= {"train": trained.numpy()}
    found |= {f"gradient/{where}": parameters[key].grad.numpy() for where, key in watched(name).items()}
    np.savez(f"{place}/{name}.npz", **found, **{f"mask{6 + i}": mask for i, mask in enumerate(masks)})
""",
}

READERS = {
    "torch": """
import sys
import numpy as np, torch, torchvision
model = torchvision.models.resnet18()
model.load_state_dict(torch.load(sys.argv[1], weights_only=True), strict=True)
for module in model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.eps = float(np.float32(module.eps))  # as Paddle's kernels and our nodes have it
with torch.no_grad():
    np.save(sys.argv[3], model.double().eval()(torch.from_numpy(np.load(sys.argv[2])["images"]).double()).numpy())
""",
    "paddle": """
import sys
import numpy as np, paddle
model = paddle.vision.models.resnet18()
assert model.set_state_dict(paddle.load(sys.argv[1])) == ([], []), "names are missing or left over"
model.to(dtype="float64")
model.eval()
with paddle.no_grad():
    np.save(sys.argv[3], model(paddle.to_tensor(np.load(sys.argv[2])["images"].astype(np.float64))).numpy())
""",
}
