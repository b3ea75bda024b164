"""What each primitive of a traced program ties together; see compress/graph.py.

A rule gets the walk, the primitive's parameters, its operands and the shapes of its results, and returns the results.
"""

import math

import numpy as np

from jaxvision.compress.labels import PINNED, Block, Value, pinned_blocks

# Programs inside programs.
CALLS = frozenset(
    ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "remat", "remat2", "checkpoint")
)
# One entry of the result comes from the same entry of each operand.
ELEMENTWISE = frozenset(
    """abs add add_any and atan2 cbrt ceil clamp convert_element_type copy copy_p cos cosh div eq erf erf_inv erfc exp exp2 expm1 floor ge gt
    integer_pow is_finite le log log1p logistic lt max min mul ne neg nextafter not or pow reduce_precision rem round rsqrt select_n
    sharding_constraint sign sin sinh sqrt square sub tan tanh xor""".split()
)


def _broadcast(walk, params, operands, outs):
    (value,) = operands[:1]
    axes = dict(enumerate(params["broadcast_dimensions"]))
    return [Value(outs[0], [block.renumbered(axes) for block in value.blocks], constant=value.constant)]


def _transpose(walk, params, operands, outs):
    axes = {old: new for new, old in enumerate(params["permutation"])}
    return [Value(outs[0], [block.renumbered(axes) for block in operands[0].blocks], constant=operands[0].constant)]


def _squeeze(walk, params, operands, outs):
    kept = [axis for axis in range(len(operands[0].shape)) if axis not in params["dimensions"]]
    axes = {old: new for new, old in enumerate(kept)}
    return [Value(outs[0], [block.renumbered(axes) for block in operands[0].blocks], constant=operands[0].constant)]


def _factors(old, new):
    """Runs of axes of two shapes that hold the same entries: [((axes of the old), (axes of the new)), …], axes of length 1 left out."""
    olds, news = [i for i, n in enumerate(old) if n > 1], [i for i, n in enumerate(new) if n > 1]
    runs = []
    while olds or news:
        a, b = [olds.pop(0)], [news.pop(0)]
        while (x := math.prod(old[i] for i in a)) != (y := math.prod(new[i] for i in b)):
            if x < y:
                a.append(olds.pop(0))
            else:
                b.append(news.pop(0))
        runs.append((tuple(a), tuple(b)))
    return runs


def _reshape(walk, params, operands, outs):
    (value,), (shape,) = operands[:1], outs
    if value.constant is not None:
        return [Value(shape, [], constant=value.constant)]
    runs = _factors(value.shape, shape)
    renamed = {a[0]: b[0] for a, b in runs if len(a) == len(b) == 1}
    blocks = []
    for block in value.blocks:
        if all(axis in renamed for axis in block.axes):
            blocks.append(block.renumbered(renamed))
        elif not any(set(block.axes) <= set(a) for a, _ in runs):
            walk.labels.pin(block.labels)
            block.labels = np.zeros_like(block.labels)
    for a, b in runs:
        if len(a) == len(b) == 1:
            continue
        inside = [block for block in value.blocks if set(block.axes) & set(a)]
        carrying = [block for block in inside if not block.is_pinned]
        if len(carrying) == 1:
            # Whatever the other axes are, an entry belongs to the unit that its place along the carrying axes names.
            (block,) = carrying
            spread = block.labels.reshape([value.shape[axis] if axis in block.axes else 1 for axis in a])
            labels = np.broadcast_to(spread, [value.shape[axis] for axis in a]).reshape([shape[axis] for axis in b])
            varying = [i for i in range(len(b)) if (labels != np.take(labels, [0], axis=i)).any()]
            at = tuple(slice(None) if i in varying else 0 for i in range(len(b)))
            if varying:
                blocks.append(Block(tuple(b[i] for i in varying), labels[at], block.dead))
            else:
                walk.labels.pin(block.labels)
            blocks += pinned_blocks(shape, [b[i] for i in range(len(b)) if i not in varying])
            continue
        for block in carrying:  # entries of the result would belong to two units each
            walk.labels.pin(block.labels)
        if inside:
            blocks += pinned_blocks(shape, b)
    return [Value(shape, blocks)]


def _cut(value, shape, index):
    """value[index] for a tuple of slices."""
    blocks = [Block(block.axes, block.labels[tuple(index[axis] for axis in block.axes)], block.dead) for block in value.blocks]
    return Value(shape, [block for block in blocks if block.labels.size > 1], constant=value.constant)


def _slice(walk, params, operands, outs):
    (value,) = operands
    strides = params["strides"] or (1,) * len(value.shape)
    index = [slice(a, b, s) for a, b, s in zip(params["start_indices"], params["limit_indices"], strides)]
    for axis, (old, new) in enumerate(zip(value.shape, outs[0])):
        block = value.block_of(axis)
        if new == 1 < old and block is not None:  # what is left has no axis that could be cut
            walk.labels.pin(block.labels[tuple(index[a] if a == axis else slice(None) for a in block.axes)])
    return [_single(_cut(value, outs[0], index))]


def _single(value):
    """Without the axes of length 1 in its blocks."""
    blocks = []
    for block in value.blocks:
        kept = tuple(axis for axis in block.axes if value.shape[axis] > 1)
        blocks.append(Block(kept, block.labels.reshape([value.shape[axis] for axis in kept]), block.dead))
    value.blocks = [block for block in blocks if block.axes]
    return value


def _split(walk, params, operands, outs):
    (value,), axis, start, results = operands, params["axis"], 0, []
    for size, shape in zip(params["sizes"], outs):
        index = [slice(start, start + size) if i == axis else slice(None) for i in range(len(shape))]
        if size == 1 and (block := value.block_of(axis)) is not None:
            walk.labels.pin(block.labels[tuple(index[a] for a in block.axes)])
        results.append(_single(_cut(value, shape, index)))
        start += size
    return results


def _concatenate(walk, params, operands, outs):
    (shape,), along = outs, params["dimension"]
    parts, deads, blocks = [], set(), []
    for value in operands:
        block = value.block_of(along)
        if block is not None and len(block.axes) > 1:
            walk.labels.pin(block.labels)
            block = None
        parts.append(np.full(value.shape[along], PINNED) if block is None else block.labels)
        if block is not None and not block.is_pinned:
            deads.add(block.dead)
    blocks.append(Block((along,), np.concatenate(parts), deads.pop() if len(deads) == 1 else None))
    for axis in (axis for axis in range(len(shape)) if axis != along):
        found = [block for value in operands if (block := value.block_of(axis)) is not None]
        if any(len(block.axes) > 1 for block in found):
            for block in found:
                walk.labels.pin(block.labels)
            blocks += pinned_blocks(shape, [axis])
        elif found:
            for block in found[1:]:
                walk.labels.unite(found[0].labels, block.labels)
            deads = {block.dead for block in found} | ({None} if len(found) < len(operands) else set())
            blocks.append(Block((axis,), found[0].labels, deads.pop() if len(deads) == 1 else None))
    return [Value(shape, blocks)]


def _pad(walk, params, operands, outs):
    value, (shape,) = operands[0], outs
    blocks, padded = [], [axis for axis, (low, high, inner) in enumerate(params["padding_config"]) if low or high or inner]
    for block in value.blocks:
        if not set(block.axes) & set(padded):
            blocks.append(block)
        elif len(block.axes) > 1:
            walk.labels.pin(block.labels)
            blocks += pinned_blocks(shape, block.axes)
        else:
            low, _, inner = params["padding_config"][block.axes[0]]
            labels = np.full(shape[block.axes[0]], PINNED)
            if low >= 0 and low + (len(block.labels) - 1) * (inner + 1) < len(labels):
                labels[low : low + (len(block.labels) - 1) * (inner + 1) + 1 : inner + 1] = block.labels
            else:
                walk.labels.pin(block.labels)
            blocks.append(Block(block.axes, labels, block.dead))
    blocks += pinned_blocks(shape, [axis for axis in padded if value.block_of(axis) is None])
    return [Value(shape, blocks)]


def _rev(walk, params, operands, outs):
    flip = lambda block: np.flip(block.labels, [block.axes.index(axis) for axis in params["dimensions"] if axis in block.axes])
    return [Value(outs[0], [Block(block.axes, flip(block), block.dead) for block in operands[0].blocks], constant=operands[0].constant)]


def _reduce(keeps_dead):
    def rule(walk, params, operands, outs):
        (value,) = operands
        gone = set(params["axes"])
        axes = {old: new for new, old in enumerate(axis for axis in range(len(value.shape)) if axis not in gone)}
        walk.pin(value, gone)
        blocks = []
        for block in value.blocks:
            if set(block.axes) & gone:
                blocks += pinned_blocks(outs[0], [axes[axis] for axis in block.axes if axis not in gone])
            else:
                new = block.renumbered(axes)
                blocks.append(Block(new.axes, new.labels, keeps_dead(new.dead)))
        return [Value(outs[0], blocks)]

    return rule


def _zero(dead):
    return 0.0 if dead == 0.0 else None


def _same(dead):
    return dead


def _window(keeps_dead):
    def rule(walk, params, operands, outs):
        value, (shape,) = operands[0], outs
        slid = [axis for axis, size in enumerate(params["window_dimensions"]) if size > 1 or params["window_strides"][axis] > 1]
        walk.pin(value, slid)
        blocks = [Block(b.axes, b.labels, keeps_dead(b.dead)) for b in value.blocks if not set(b.axes) & set(slid)]
        rest = {axis for block in value.blocks if set(block.axes) & set(slid) for axis in block.axes}
        return [Value(shape, blocks + pinned_blocks(shape, sorted(rest | set(slid))))]

    return rule


# --- layers ---


def _convolution(walk, x, w, shape, x_spec, w_spec, out_spec, groups):
    """Specs are (batch or output channels, features or input channels, *space)."""
    (x_batch, x_channels, *x_space), (w_out, w_in, *w_space) = x_spec, w_spec
    walk.pin(x, x_space)
    walk.pin(w, w_space)
    features = w.shape[w_out]
    note(walk, w, math.prod(shape) // shape[out_spec[0]] // features)
    blocks = pinned_blocks(shape, out_spec[2:])
    if (batch := x.block_of(x_batch)) is not None:
        walk.labels.pin(batch.labels)
        blocks += pinned_blocks(shape, out_spec[:1])
    if groups == 1:
        walk.contract(x, x_channels, w, w_in)
        return [Value(shape, blocks + walk.free(w, {w_out: out_spec[1]}))]
    inputs, outputs = x.block_of(x_channels), w.block_of(w_out)
    if inputs is None or outputs is None or len(inputs.axes) > 1 or len(outputs.axes) > 1:
        return walk.unknown([x, w], [shape])
    if not w.moving:
        walk.mark(walk.writes, w, axes=(w_out,))
    dead = 0.0 if 0.0 in (inputs.dead, outputs.dead) else None
    if groups == x.shape[x_channels] == features:
        walk.labels.unite(inputs.labels, outputs.labels)
    else:
        # Whole groups are the units: what a group reads and what it writes.
        walk.pin(w, (w_in,))
        if inputs.dead != 0.0:
            walk.labels.pin(inputs.labels)
        first = outputs.labels.reshape(groups, -1)[:, :1]
        walk.labels.unite(outputs.labels.reshape(groups, -1), first)
        walk.labels.unite(inputs.labels.reshape(groups, -1), first)
    return [Value(shape, [*blocks, Block((out_spec[1],), outputs.labels, dead)])]


def note(walk, kernel, positions):
    """Adds output positions to the leaf that the kernel's output channels are from."""
    for block in kernel.blocks:
        number, _ = walk.owner[label] if (label := int(block.labels.max())) < len(walk.owner) else (-1, -1)
        if number >= 0 and not kernel.moving:
            name = walk.names[number]
            walk.positions[name] = walk.positions.get(name, 0) + positions
            return


NHWC, HWIO = (0, 3, 1, 2), (3, 2, 0, 1)


def _conv(walk, params, operands, outs):
    if params["mapped"]:
        return walk.unknown(operands, outs)
    return _convolution(walk, *operands, outs[0], NHWC, HWIO, NHWC, params["geometry"].groups)


def _general_conv(walk, params, operands, outs):
    spec = params["dimension_numbers"]
    if params["batch_group_count"] != 1:
        return walk.unknown(operands, outs)
    return _convolution(walk, *operands, outs[0], spec.lhs_spec, spec.rhs_spec, spec.out_spec, params["feature_group_count"])


def _dense(walk, params, operands, outs):
    if params["mapped"]:
        return walk.unknown(operands, outs)
    x, w = operands
    last = len(x.shape) - 1
    note(walk, w, math.prod(outs[0]) // outs[0][0] // outs[0][-1])
    walk.contract(x, last, w, 0)
    return [Value(outs[0], [*walk.free(x, {axis: axis for axis in range(last)}), *walk.free(w, {1: last})])]


def _dot(walk, params, operands, outs):
    (a, b), (shape,) = operands, outs
    ((a_sum, b_sum), (a_batch, b_batch)) = params["dimension_numbers"]
    for kernel, batch, axes in ((a, a_batch, a_sum), (b, b_batch, b_sum)):
        if not kernel.moving and not batch:
            own = math.prod(n for axis, n in enumerate(kernel.shape) if axis not in axes)
            note(walk, kernel, max(1, math.prod(shape) // own))
    for one, other in zip(a_sum, b_sum):
        walk.contract(a, one, b, other)
    a_axes, b_axes = {}, {}
    for number, (one, other) in enumerate(zip(a_batch, b_batch)):
        a_axes[one], b_axes[other] = number, number
    for axes, value, gone in ((a_axes, a, a_sum), (b_axes, b, b_sum)):
        for axis in range(len(value.shape)):
            if axis not in axes and axis not in gone:
                axes[axis] = len(a_batch) + sum(len(m) - len(a_batch) for m in (a_axes, b_axes))
    found: list[Block] = []
    for block in [*walk.free(a, a_axes), *walk.free(b, b_axes)]:
        same = next((other for other in found if set(other.axes) & set(block.axes)), None)
        if same is None:
            found.append(block)
        elif same.axes == block.axes:
            walk.labels.unite(same.labels, block.labels)
            same.dead = 0.0 if 0.0 in (same.dead, block.dead) else None
        else:
            for each in (same, block):
                walk.labels.pin(each.labels)
            found = [other for other in found if other is not same]
            found += pinned_blocks(shape, sorted(set(same.axes) | set(block.axes)))
    return [Value(shape, found)]


def _attention(walk, params, operands, outs):
    call = params["call"]
    named = call.named(operands)
    heads, tied, deads = call.heads, [], []
    for value, parts in [(v, 3 if call.packed else 1) for v in operands[: call.arrays]] + [(named["offset"], 3)] * (named["offset"] is not None):
        block = value.block_of(len(value.shape) - 1)
        if block is None or len(block.axes) > 1:
            return walk.unknown(operands, outs)
        tied.append(block.labels.reshape(parts, heads, -1))
        deads.append(block.dead)
        walk.pin(value, range(len(value.shape) - 1))
        if not value.moving:
            walk.mark(walk.writes, value)
    first = tied[0][0, :, 0]
    for labels in tied:
        walk.labels.unite(labels, first[None, :, None])
    if any(dead != 0.0 for dead in deads):
        walk.labels.pin(first)
    if (bias := named["bias"]) is not None:
        walk.pin(bias, (0, 2, 3))
        if (block := bias.block_of(1)) is not None:
            walk.labels.unite(block.labels, first) if len(block.axes) == 1 else walk.pin(bias)
    width = outs[0][2] // heads
    return [Value(outs[0], [*pinned_blocks(outs[0], [1]), Block((2,), np.repeat(first, width), 0.0)])]


RULES = {
    "attention_forward": _attention,
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_forward": _conv,
    "conv_general_dilated": _general_conv,
    "dense_forward": _dense,
    "depthwise_conv_forward": _conv,
    "dot_general": _dot,
    "grouped_conv_forward": _conv,
    "materialize": lambda walk, params, operands, outs: list(operands),
    "optimization_barrier": lambda walk, params, operands, outs: list(operands),
    "pad": _pad,
    "reduce_max": _reduce(_same),
    "reduce_min": _reduce(_same),
    "reduce_sum": _reduce(_zero),
    "reduce_window_max": _window(_same),
    "reduce_window_sum": _window(_zero),
    "reshape": _reshape,
    "rev": _rev,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
