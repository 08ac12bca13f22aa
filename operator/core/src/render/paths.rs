//! From the path of a field in `config.pbtxt` to that of the field in the resource that says it.

use server_core::config::Problem;

use crate::path::FieldPath;

/// Fields whose names differ by more than their case.
const RENAMED: [(&str, &str); 5] = [
    ("input", "spec.config.inputs"),
    ("output", "spec.config.outputs"),
    ("instance_group", "spec.config.instanceGroups"),
    ("version_policy", "spec.versions.policy"),
    ("name", "spec.modelName"),
];

pub(super) fn spec(field: &str) -> FieldPath {
    FieldPath::default().field("spec").field(field)
}

/// The top-level field a path begins with.
pub(super) fn top_level(path: &str) -> &str {
    path.split(['.', '[']).next().unwrap_or(path)
}

/// The path in the resource.
pub(super) fn in_resource(path: &str) -> String {
    let renamed = RENAMED.iter().find_map(|(theirs, ours)| {
        let rest = path.strip_prefix(theirs)?;
        (rest.is_empty() || rest.starts_with(['.', '['])).then_some((*ours, rest))
    });
    match renamed {
        Some((ours, rest)) => format!("{ours}{}", camel_case(rest)),
        None => format!("spec.config.{}", camel_case(path)),
    }
}

/// What helps, for mistakes whose cure is not where they show.
pub(super) fn cure(problem: &Problem) -> &'static str {
    let Problem { path, message } = problem;
    if path.contains("preferred_batch_size") {
        ": lower it or raise the maximum batch size"
    } else if path.starts_with("instance_group[") && path.contains(".gpus") && message.contains("KIND_CPU") {
        ": remove gpus, or use KIND_GPU"
    } else if path.starts_with("instance_group[") && path.contains(".gpus") {
        ": a replica has as many GPUs as spec.gpu.count of its TritonServer says"
    } else {
        ""
    }
}

/// `max_queue_delay[1].a_b` as `maxQueueDelay[1].aB`; what is quoted stays.
fn camel_case(path: &str) -> String {
    let (mut out, mut quoted, mut upper) = (String::with_capacity(path.len()), false, false);
    for c in path.chars() {
        quoted ^= c == '"';
        match c {
            '_' if !quoted => upper = true,
            c if upper => {
                out.extend(c.to_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_text_become_paths_of_the_resource() {
        for (theirs, ours) in [
            ("dynamic_batching.preferred_batch_size[1]", "spec.config.dynamicBatching.preferredBatchSize[1]"),
            ("input[0].data_type", "spec.config.inputs[0].dataType"),
            ("instance_group[2].gpus[0]", "spec.config.instanceGroups[2].gpus[0]"),
            ("parameters[\"a_b\"]", "spec.config.parameters[\"a_b\"]"),
            ("name", "spec.modelName"),
            ("input_something", "spec.config.inputSomething"),
        ] {
            assert_eq!(in_resource(theirs), ours);
        }
    }
}
