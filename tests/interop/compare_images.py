"""Compares a folder as torchvision's ResNet or Swin Transformer computes it with what `sdp eval --json` said (see ./torchvision).

Tolerances: the mean loss 1e-5 relative, since both sum in f32, in another order, over 18 layers (24 in the Swin Transformer); the classes that are found are the
same for all images but one, whose two largest logits may be that near.
"""
import argparse
import functools
import json
import random
import sys


def write_images(count, seed, path):
    generator = random.Random(seed)
    with open(path, "wb") as file:
        for image in range(count):
            file.write(bytes([image % 10]) + generator.randbytes(3 * 32 * 32))


def read_images(path, mean, std):
    import numpy as np
    import torch

    records = np.fromfile(path, dtype=np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    pixels = torch.from_numpy(records[:, 1:].copy()).view(-1, 3, 32, 32).double() / 255
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return ((pixels - shift) / scale).float(), torch.from_numpy(records[:, 0].astype("int64"))


def make_swin(sizes):
    from torchvision.models.swin_transformer import SwinTransformer

    patch, window = sizes["patch"], sizes["window"]
    return SwinTransformer([patch, patch], sizes["dim"], sizes["depths"], sizes["level_heads"], [window, window], mlp_ratio=sizes["mlp_ratio"],
                           stochastic_depth_prob=0, num_classes=sizes["classes"])


def make_resnet(sizes):
    import torch
    from torchvision.models.resnet import BasicBlock, ResNet

    norm = None
    if sizes["norm"] == "group":
        norm = functools.partial(torch.nn.GroupNorm, sizes["norm_groups"])
    model = ResNet(BasicBlock, sizes["depths"], num_classes=sizes["classes"], norm_layer=norm)
    if sizes["stem"] == "cifar":  # The only difference from torchvision's definition.
        model.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        model.maxpool = torch.nn.Identity()
    return model


def load(folder):
    from safetensors.torch import load_file

    config = json.load(open(folder + "/config.json"))
    make = {"resnet": make_resnet, "swin": make_swin}[config["model"]["arch"]]
    model = make(config["model"])
    result = model.load_state_dict(load_file(folder + "/model.safetensors"), strict=False)
    # Which row of its table two positions have is no weight: it follows from the window.
    missing = [name for name in result.missing_keys if not name.endswith(".relative_position_index")]
    if missing or result.unexpected_keys:
        sys.exit(f"{folder}: missing {missing}, unexpected {result.unexpected_keys}")
    return model.eval(), config


def compare(folder, said, images):
    import torch

    model, config = load(folder)
    pixels, classes = read_images(images, config["image_mean"], config["image_std"])
    with torch.no_grad():
        logits = model(pixels)
    loss = torch.nn.functional.cross_entropy(logits.double(), classes).item()
    right = (logits.argmax(1) == classes).sum().item()
    ours = json.load(open(said))
    difference = abs(loss - ours["loss"]) / loss
    near = abs(right - ours["accuracy"] * len(classes))
    ok = difference <= 1e-5 and near <= 1.5
    print(f"{'ok   ' if ok else 'FAIL '} {folder}: loss {loss:.6f}, ours {ours['loss']:.6f}, relative difference {difference:.1e}; "
          f"{right} right, ours {ours['accuracy'] * len(classes):.0f}")
    return ok


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write-images", nargs=3, metavar=("COUNT", "SEED", "FILE"))
    parser.add_argument("compared", nargs="*", metavar="FOLDER SAID IMAGES")
    args = parser.parse_args()
    if args.write_images:
        count, seed, path = args.write_images
        write_images(int(count), int(seed), path)
        return 0
    return 0 if compare(*args.compared) else 1


if __name__ == "__main__":
    sys.exit(main())
