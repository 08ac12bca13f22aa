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

/// What the server says of a group for GPUs on a machine without any.
const NO_GPUS: &str = "KIND_GPU but no GPUs are available";

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

/// What is wrong and what helps, where the cure is another one for a resource or is not where the mistake shows.
pub(super) fn with_cure(problem: &Problem) -> String {
    let Problem { path, message } = problem;
    let cure = if path.contains("preferred_batch_size") {
        "lower it or raise the maximum batch size"
    } else if !path.starts_with("instance_group[") || !path.contains(".gpus") {
        return message.clone();
    } else if let Some((what, _)) = message.split_once(NO_GPUS) {
        // the server's own cure is for whoever starts it by hand
        return format!(
            "{what}{NO_GPUS}: its TritonServer has none; use KIND_CPU or KIND_AUTO, or set spec.gpu.count of the TritonServer"
        );
    } else if message.contains("KIND_CPU") {
        "remove gpus, or use KIND_GPU"
    } else {
        "a replica has as many GPUs as spec.gpu.count of its TritonServer says"
    };
    format!("{message}: {cure}")
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
