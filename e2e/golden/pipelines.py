"""Ensembles over the models of repository.py: those that load, and those that must not, each for one reason.

A graph is written as its steps: (model, {input: tensor}, {output: tensor}), or with a version as the fourth.
"""


def mapped(field, pairs):
    return " ".join(f'{field} {{ key: "{key}" value: "{value}" }}' for key, value in pairs.items())


def step(model, inputs, outputs, version=-1):
    return f'{{ model_name: "{model}" model_version: {version} {mapped("input_map", inputs)} {mapped("output_map", outputs)} }}'


def tensors(kind, given):
    lines = ", ".join(f'{{ name: "{name}" data_type: TYPE_{data_type} dims: {dims} {more[0] if more else ""} }}' for name, data_type, dims, *more in given)
    return f"{kind} [ {lines} ]\n" if given else ""


def ensemble(batch, inputs, outputs, *steps, more=""):
    """Configuration text without its name."""
    graph = ", ".join(step(*one) for one in steps)
    scheduling = f"ensemble_scheduling {{ step [ {graph} ] }}\n" if steps else "ensemble_scheduling { }\n"
    return f'platform: "ensemble"\nmax_batch_size: {batch}\n' + tensors("input", inputs) + tensors("output", outputs) + scheduling + more


X, Y = ("X", "FP32", [4]), ("Y", "FP32", [4])


def single(source, target, model="single", version=-1):
    return (model, {"INPUT0": source}, {"OUTPUT0": target}, version)


GOOD = {
    "e_one": ensemble(8, [X], [Y], single("X", "Y")),
    "e_chain": ensemble(8, [X], [Y], single("X", "a"), single("a", "b", "batched"), single("b", "Y")),
    "e_steps_backwards": ensemble(8, [X], [Y], single("b", "Y"), single("a", "b"), single("X", "a")),
    "e_fan": ensemble(
        8,
        [X, ("W", "FP32", [4])],
        [Y, ("Z", "FP32", [4])],
        single("X", "a"),
        single("W", "b", "batched"),
        ("two", {"INPUT0": "a", "INPUT1": "b"}, {"OUTPUT0": "Y", "OUTPUT1": "Z"}),
    ),
    "e_same_twice": ensemble(8, [X], [Y, ("Z", "FP32", [4])], ("two", {"INPUT0": "X", "INPUT1": "X"}, {"OUTPUT0": "Y", "OUTPUT1": "Z"})),
    "e_inner_output": ensemble(8, [X], [("A", "FP32", [4]), Y], single("X", "A"), single("A", "Y")),
    "e_part_of_outputs": ensemble(8, [X], [Y], ("two", {"INPUT0": "X", "INPUT1": "X"}, {"OUTPUT1": "Y"})),
    "e_smaller_batch": ensemble(2, [X], [Y], single("X", "Y")),
    "e_no_batch_member": ensemble(4, [("X", "FP32", [2, 2])], [("Y", "FP32", [2, 2])], single("X", "Y", "nobatch")),
    "e_no_batch_itself": ensemble(0, [("X", "FP32", [1, 4])], [("Y", "FP32", [1, 4])], single("X", "Y")),
    "e_no_batch_open": ensemble(0, [("X", "FP32", [-1, 4])], [("Y", "FP32", [-1, 4])], single("X", "Y")),
    "e_wider": ensemble(0, [("X", "FP32", [-1])], [("Y", "FP32", [-1])], single("X", "Y", "wild")),
    "e_open_over_fixed": ensemble(8, [("X", "FP32", [-1])], [("Y", "FP32", [-1])], single("X", "Y")),
    "e_optional_not_mapped": ensemble(4, [X], [Y], ("optional", {"INPUT0": "X"}, {"OUTPUT0": "Y"})),
    "e_optional_given": ensemble(4, [X, ("W", "FP32", [4], "optional: true")], [Y], ("optional", {"INPUT0": "X", "INPUT1": "W"}, {"OUTPUT0": "Y"})),
    "e_nested": ensemble(8, [X], [Y], ("e_one", {"X": "X"}, {"Y": "a"}), ("e_chain", {"X": "a"}, {"Y": "Y"})),
    "e_labels_of_member": ensemble(4, [X], [Y], single("X", "Y", "labelled")),
    "e_exact_version": ensemble(8, [X], [Y], single("X", "Y", "versions_all", 1)),
    "e_latest_version": ensemble(8, [X], [Y], single("X", "Y", "versions_all")),
    "e_text": ensemble(4, [("X", "STRING", [2])], [("Y", "STRING", [2])], single("X", "Y", "text")),
}

BROKEN = {
    "x_unknown_model": ensemble(8, [X], [Y], single("X", "Y", "nosuch")),
    "x_two_unknown_models": ensemble(8, [X], [Y], single("X", "a", "nosuch"), single("a", "Y", "noneither")),
    "x_failed_model": ensemble(8, [X], [Y], single("X", "Y", "no_backend")),
    "x_unread_model": ensemble(8, [X], [Y], single("X", "Y", "bad_syntax")),
    "x_missing_version": ensemble(8, [X], [Y], single("X", "Y", "versions_all", 9)),
    "x_no_version_named": ensemble(8, [X], [Y], single("X", "Y", "single", 0)),
    "x_type": ensemble(8, [("X", "INT32", [4])], [Y], single("X", "Y")),
    "x_output_type": ensemble(8, [X], [("Y", "INT32", [4])], single("X", "Y")),
    "x_types_between": ensemble(4, [X], [("Y", "STRING", [2])], single("X", "a"), single("a", "Y", "text")),
    "x_shape": ensemble(8, [("X", "FP32", [3])], [Y], single("X", "Y")),
    "x_shape_between": ensemble(0, [("X", "FP32", [2, 2])], [("Y", "FP32", [-1])], single("X", "a", "nobatch"), single("a", "Y", "wild")),
    "x_no_such_input": ensemble(8, [X], [Y], ("single", {"INPUT7": "X"}, {"OUTPUT0": "Y"})),
    "x_no_such_output": ensemble(8, [X], [Y], ("single", {"INPUT0": "X"}, {"OUTPUT7": "Y"})),
    "x_input_not_mapped": ensemble(8, [X], [Y], ("two", {"INPUT0": "X"}, {"OUTPUT0": "Y"})),
    "x_batch_too_large": ensemble(9, [X], [Y], single("X", "Y")),
    "x_batch_over_none": ensemble(4, [X], [Y], single("X", "Y", "wild")),
    "x_itself": ensemble(8, [X], [Y], ("x_itself", {"X": "X"}, {"Y": "Y"})),
    "x_circle_one": ensemble(8, [X], [Y], ("x_circle_two", {"X": "X"}, {"Y": "Y"})),
    "x_circle_two": ensemble(8, [X], [Y], ("x_circle_one", {"X": "X"}, {"Y": "Y"})),
    "x_circle_of_tensors": ensemble(8, [X], [Y], ("two", {"INPUT0": "X", "INPUT1": "b"}, {"OUTPUT0": "Y", "OUTPUT1": "a"}), single("a", "b")),
    "x_no_steps": ensemble(8, [X], [Y]),
    "x_no_model_name": ensemble(8, [X], [Y], single("X", "Y", "")),
    "x_no_input_map": ensemble(8, [X], [Y], ("single", {}, {"OUTPUT0": "Y"})),
    "x_no_output_map": ensemble(8, [X], [Y], ("single", {"INPUT0": "X"}, {})),
    "x_written_twice": ensemble(8, [X], [Y], single("X", "Y"), single("X", "Y", "batched")),
    "x_written_twice_by_one": ensemble(8, [X], [Y], ("two", {"INPUT0": "X", "INPUT1": "X"}, {"OUTPUT0": "Y", "OUTPUT1": "Y"})),
    "x_input_written": ensemble(8, [X], [Y], single("X", "Y"), single("Y", "X", "batched")),
    "x_unused_tensor": ensemble(8, [X], [Y], ("two", {"INPUT0": "X", "INPUT1": "X"}, {"OUTPUT0": "Y", "OUTPUT1": "spare"})),
    "x_unused_input": ensemble(8, [X, ("W", "FP32", [4])], [Y], single("X", "Y")),
    "x_output_unwritten": ensemble(8, [X], [Y, ("Z", "FP32", [4])], single("X", "Y")),
    "x_source_unwritten": ensemble(8, [X], [Y], ("two", {"INPUT0": "X", "INPUT1": "nowhere"}, {"OUTPUT0": "Y"})),
    "x_instance_group": ensemble(8, [X], [Y], single("X", "Y"), more="instance_group [ { kind: KIND_CPU } ]\n"),
    "x_optimization": ensemble(8, [X], [Y], single("X", "Y"), more="optimization { priority: PRIORITY_MAX }\n"),
    "x_dynamic_batching_too": ensemble(8, [X], [Y], single("X", "Y"), more="dynamic_batching { }\n"),
    "x_platform_alone": 'platform: "ensemble"\nmax_batch_size: 8\n' + tensors("input", [X]) + tensors("output", [Y]),
    "x_no_inputs": ensemble(8, [], [Y], single("X", "Y")),
    "x_no_outputs": ensemble(8, [X], [], single("X", "Y")),
    "x_backend": ensemble(8, [X], [Y], single("X", "Y"), more='backend: "identity"\n'),
}

# Loads without a platform, and with no folder of a version.
WITHOUT_PLATFORM = GOOD["e_one"].replace('platform: "ensemble"\n', "")
