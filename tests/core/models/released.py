"""A second, straight-line reading of the released SiT and FlowTurbo, sharing nothing with ours.

Written from the papers and from what the released files hold: a state dict, and functions of it
that spell every sum out. Slow, and only for tests.
"""

import math

import torch


def released_shapes(
    width, depth, classes, channels=4, input_multiple=1, patch=2, side=4, hidden=None, sigma=True
):
    """Return {name: shape} of a released checkpoint, for latents of side * patch pixels."""
    hidden = hidden or 4 * width
    outputs = patch * patch * channels * (2 if sigma else 1)
    shapes = {
        "pos_embed": (1, side * side, width),
        "x_embedder.proj.weight": (width, channels * input_multiple, patch, patch),
        "x_embedder.proj.bias": (width,),
        "t_embedder.mlp.0.weight": (width, 256),
        "t_embedder.mlp.0.bias": (width,),
        "t_embedder.mlp.2.weight": (width, width),
        "t_embedder.mlp.2.bias": (width,),
        "y_embedder.embedding_table.weight": (classes + 1, width),
        "final_layer.linear.weight": (outputs, width),
        "final_layer.linear.bias": (outputs,),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
        "final_layer.adaLN_modulation.1.bias": (2 * width,),
    }
    for k in range(depth):
        shapes |= {
            f"blocks.{k}.attn.qkv.weight": (3 * width, width),
            f"blocks.{k}.attn.qkv.bias": (3 * width,),
            f"blocks.{k}.attn.proj.weight": (width, width),
            f"blocks.{k}.attn.proj.bias": (width,),
            f"blocks.{k}.mlp.fc1.weight": (hidden, width),
            f"blocks.{k}.mlp.fc1.bias": (hidden,),
            f"blocks.{k}.mlp.fc2.weight": (width, hidden),
            f"blocks.{k}.mlp.fc2.bias": (width,),
            f"blocks.{k}.adaLN_modulation.1.weight": (6 * width, width),
            f"blocks.{k}.adaLN_modulation.1.bias": (6 * width,),
        }
    return shapes


def random_state(shapes, seed, scale=0.1):
    """Return random tensors of `shapes`: no parameter is zero, so that none can be forgotten."""
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def sit_forward(state, heads, x, t, labels, channels=4):
    """Return the velocity of the SiT in `state` at latents x (B, C, H, W), t (B,), labels (B,).

    Of a refiner, x has twice the channels, the latents and the velocity; `channels` is how many
    the latents have.
    """
    embed = state["x_embedder.proj.weight"]
    width, _, patch, _ = embed.shape
    batch, _, height, _ = x.shape
    side = height // patch

    # Patches: one token each, rows of patches from the top.
    tokens = []
    for row in range(side):
        for column in range(side):
            piece = x[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            token = torch.einsum("bcij,dcij->bd", piece, embed) + state["x_embedder.proj.bias"]
            tokens.append(token)
    h = torch.stack(tokens, 1) + state["pos_embed"]

    # What it is conditioned on.
    frequencies = [10_000 ** (-k / 128) for k in range(128)]
    waves = [torch.cos(t * f) for f in frequencies] + [torch.sin(t * f) for f in frequencies]
    c = affine(state, "t_embedder.mlp.0", torch.stack(waves, 1))
    c = affine(state, "t_embedder.mlp.2", c * torch.sigmoid(c))
    c = c + state["y_embedder.embedding_table.weight"][labels]
    active = c * torch.sigmoid(c)

    depth = sum(name.endswith("attn.qkv.weight") for name in state)
    for k in range(depth):
        name = f"blocks.{k}"
        m = affine(state, f"{name}.adaLN_modulation.1", active)
        parts = [m[:, None, j * width : (j + 1) * width] for j in range(6)]
        h = h + parts[2] * attention(state, name, heads, shifted(h, parts[0], parts[1]))
        inner = affine(state, f"{name}.mlp.fc1", shifted(h, parts[3], parts[4]))
        root = math.sqrt(2 / math.pi)
        inner = 0.5 * inner * (1 + torch.tanh(root * (inner + 0.044715 * inner**3)))
        h = h + parts[5] * affine(state, f"{name}.mlp.fc2", inner)

    m = affine(state, "final_layer.adaLN_modulation.1", active)
    h = affine(state, "final_layer.linear", shifted(h, m[:, None, :width], m[:, None, width:]))

    # Back to pixels: within a token, row, column, channel.
    outputs = h.shape[-1] // patch**2
    image = x.new_zeros(batch, outputs, height, height)
    for row in range(side):
        for column in range(side):
            for i in range(patch):
                for j in range(patch):
                    first = (i * patch + j) * outputs
                    values = h[:, row * side + column, first : first + outputs]
                    image[:, :, row * patch + i, column * patch + j] = values
    return image[:, :channels]  # with learn_sigma, the other half is a variance, unused


def affine(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def shifted(x, shift, scale):
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)
    return normed * (1 + scale) + shift


def attention(state, name, heads, x):
    width = x.shape[-1]
    size = width // heads
    qkv = affine(state, f"{name}.attn.qkv", x)
    mixed = []
    for head in range(heads):
        at = head * size
        q = qkv[..., at : at + size]
        k = qkv[..., width + at : width + at + size]
        v = qkv[..., 2 * width + at : 2 * width + at + size]
        weights = torch.exp(q @ k.transpose(1, 2) / math.sqrt(size))
        mixed.append(weights / weights.sum(-1, keepdim=True) @ v)
    return affine(state, f"{name}.attn.proj", torch.cat(mixed, -1))


def guided(output, scale):
    """Guide channels 0-2 of a doubled batch [conditional; null], leave the rest as it is."""
    half = len(output) // 2
    result = output.clone()
    for k in range(half):
        mix = output[half + k, :3] + scale * (output[k, :3] - output[half + k, :3])
        result[k, :3] = mix
        result[half + k, :3] = mix
    return result


def released_sample(predictor, refiner, heun, pseudo, refine, noise, labels, null, scale):
    """Sample as the released `FlowTurboAssemble` does: H blocks, then P, then R.

    `predictor(x, t, labels)` and `refiner(x, t, v, labels)` are unguided, on a doubled batch.
    Returns the conditional half of the final latents.
    """
    count = len(noise)
    y = torch.cat([labels, torch.full_like(labels, null)])
    times = torch.linspace(0, 1, heun + pseudo + refine + 1)
    dt = times[1] - times[0]

    def same(x):  # both halves see the conditional latents
        return torch.cat([x[:count], x[:count]])

    def v_at(x, i):
        return guided(predictor(same(x), times[i].expand(2 * count), y), scale)

    def r_at(x, i, v):
        return guided(refiner(same(x), times[i].expand(2 * count), v, y), scale)

    x, d, i = torch.cat([noise, noise]), None, 0
    for _ in range(heun):
        first = v_at(x, i)
        d = v_at(x + dt * first, i + 1)
        x, i = x + 0.5 * dt * (first + d), i + 1
    for _ in range(pseudo):
        first = v_at(x, i) if d is None else d
        d = v_at(x + dt * first, i + 1)
        x, i = x + 0.5 * dt * (first + d), i + 1
    for _ in range(refine):
        first = r_at(x, i, d) + d
        second = r_at(x + dt * first, i + 1, d) + first
        x, i, d = x + 0.5 * dt * (first + second), i + 1, first
    return x[:count]
