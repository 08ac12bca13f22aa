//! Dynamic batching: sizes, priorities, queue policies.

use server_proto::inference::{ModelDynamicBatching, ModelQueuePolicy, model_queue_policy::TimeoutAction};

use super::findings::Findings;

pub(super) fn check(batching: &ModelDynamicBatching, max_batch_size: i32, findings: &mut Findings<'_>) {
    for (index, &size) in batching.preferred_batch_size.iter().enumerate() {
        let path = format!("dynamic_batching.preferred_batch_size[{index}]");
        if size <= 0 {
            findings.add_for_model(path, "dynamic batching preferred size must be positive");
        } else if size > max_batch_size {
            findings.add_for_model(path, "dynamic batching preferred size must be <= max batch size");
        }
    }
    let levels = batching.priority_levels;
    if levels != 0 {
        if !(1..=levels).contains(&batching.default_priority_level) {
            let message = format!("default priority level must be in range [1, {levels}]");
            findings.add_for_model("dynamic_batching.default_priority_level", message);
        }
        for level in batching.priority_queue_policy.keys().filter(|level| !(1..=levels).contains(*level)) {
            let message = format!("priority queue policy must have priority level in range [1, {levels}]");
            findings.add_for_model(format!("dynamic_batching.priority_queue_policy[{level}]"), message);
        }
    }
    if batching.preserve_ordering {
        check_order_can_be_kept(batching, findings);
    }
}

fn check_order_can_be_kept(batching: &ModelDynamicBatching, findings: &mut Findings<'_>) {
    if batching.priority_levels > 1 {
        let message = "Only one priority level is allowed when 'preserve_ordering' is true";
        findings.add_for_model("dynamic_batching.priority_levels", message);
    }
    let default_policy = batching.default_queue_policy.iter().map(|policy| ("default_queue_policy".to_owned(), policy));
    let by_level = &batching.priority_queue_policy;
    let by_level = by_level.iter().map(|(level, policy)| (format!("priority_queue_policy[{level}]"), policy));
    for (path, _) in default_policy.chain(by_level).filter(|(_, policy)| delays(policy)) {
        let message = "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true";
        findings.add_for_model(format!("dynamic_batching.{path}.timeout_action"), message);
    }
}

fn delays(policy: &ModelQueuePolicy) -> bool {
    policy.default_timeout_microseconds != 0 && policy.timeout_action() == TimeoutAction::Delay
}
