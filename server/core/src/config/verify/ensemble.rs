//! Ensembles, as far as their own configuration goes: complete steps, and tensors that all come from somewhere and
//! lead somewhere. Whether the models exist and fit is checked when they are known.

use std::collections::{BTreeMap, BTreeSet};

use server_proto::inference::ModelEnsembling;

use super::findings::Findings;
use crate::config::ModelConfig;

pub(super) fn check(config: &ModelConfig, graph: &ModelEnsembling, findings: &mut Findings<'_>) {
    let ensemble = &config.name;
    if !config.instance_group.is_empty() {
        let message = format!("instance group should not be specified for ensemble '{ensemble}'");
        findings.add("instance_group", message);
    }
    if config.optimization.is_some() {
        findings.add("optimization", format!("optimization should not be specified for ensemble '{ensemble}'"));
    }
    if !config.model_warmup.is_empty() {
        findings.add("model_warmup", format!("model_warmup can not be specified for ensemble '{ensemble}'"));
    }
    if graph.step.is_empty() {
        findings.add("ensemble_scheduling.step", format!("must specify 'step' for ensemble '{ensemble}'"));
        return;
    }
    let before = findings.problems.len();
    check_steps(ensemble, graph, findings);
    if findings.problems.len() == before {
        check_flow(config, &Flow::new(graph), findings); // meaningless while steps are incomplete
    }
}

fn check_steps(ensemble: &str, graph: &ModelEnsembling, findings: &mut Findings<'_>) {
    let mut written = BTreeSet::new();
    for (index, step) in graph.step.iter().enumerate() {
        let path = format!("ensemble_scheduling.step[{index}]");
        let missing = [
            ("model_name", step.model_name.is_empty()),
            ("input_map", step.input_map.is_empty()),
            ("output_map", step.output_map.is_empty()),
        ];
        for (field, _) in missing.into_iter().filter(|(_, is_missing)| *is_missing) {
            findings.add(
                format!("{path}.{field}"),
                format!("must specify '{field}' in step {index} of ensemble '{ensemble}'"),
            );
        }
        for (output, tensor) in step.output_map.iter().filter(|(_, tensor)| !written.insert(*tensor)) {
            findings.add(
                format!("{path}.output_map[{output:?}]"),
                format!(
                    "ensemble tensor '{tensor}' can appear in an output map only once for ensemble '{ensemble}' step \
                     {index}"
                ),
            );
        }
    }
}

/// Which tensors need which.
struct Flow<'a> {
    /// For every tensor, those its step reads; none for tensors no step writes.
    sources: BTreeMap<&'a str, Vec<&'a str>>,
    /// Tensors some step reads.
    read: BTreeSet<&'a str>,
}

impl<'a> Flow<'a> {
    fn new(graph: &'a ModelEnsembling) -> Self {
        let mut sources = BTreeMap::<&str, Vec<&str>>::new();
        let mut read = BTreeSet::new();
        for step in &graph.step {
            let inputs: Vec<&str> = step.input_map.values().map(String::as_str).collect();
            for &input in &inputs {
                read.insert(input);
                sources.entry(input).or_default();
            }
            for output in step.output_map.values() {
                sources.entry(output).or_default().extend(&inputs);
            }
        }
        Self { sources, read }
    }

    /// The tensors that get a value once `inputs` have one.
    fn reached<'b>(&'b self, inputs: impl Iterator<Item = &'b str>) -> BTreeSet<&'b str> {
        let mut missing: BTreeMap<&str, usize> = BTreeMap::new();
        let mut needed_by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, from) in &self.sources {
            missing.insert(tensor, from.len());
            for source in from {
                needed_by.entry(source).or_default().push(tensor);
            }
        }
        let mut reached = BTreeSet::new();
        let mut open: Vec<&str> = inputs.filter(|input| self.sources.contains_key(input)).collect();
        while let Some(tensor) = open.pop() {
            if !reached.insert(tensor) {
                continue;
            }
            for next in needed_by.get(tensor).into_iter().flatten() {
                let Some(missing) = missing.get_mut(next) else { continue };
                *missing -= 1;
                if *missing == 0 {
                    open.push(next);
                }
            }
        }
        reached
    }

    /// The tensor furthest back that keeps `tensor` from getting a value; itself if it has no source at all.
    fn first_unwritten<'b>(&'b self, tensor: &'b str, reached: &BTreeSet<&str>) -> &'b str {
        let mut seen = BTreeSet::new();
        let mut first_unwritten = tensor;
        while let Some(next) = self
            .sources
            .get(first_unwritten)
            .and_then(|from| from.iter().copied().find(|one| !reached.contains(one) && seen.insert(*one)))
        {
            first_unwritten = next;
        }
        first_unwritten
    }
}

fn check_flow(config: &ModelConfig, flow: &Flow<'_>, findings: &mut Findings<'_>) {
    let ensemble = &config.name;
    for (index, input) in config.input.iter().enumerate() {
        if !flow.sources.contains_key(input.name.as_str()) {
            let message = format!("ensemble input '{}' for ensemble {ensemble}' is not used", input.name);
            findings.add(format!("input[{index}]"), message);
        }
    }
    let reached = flow.reached(config.input.iter().map(|input| input.name.as_str()));
    let mut outputs = BTreeSet::new();
    for (index, output) in config.output.iter().map(|output| output.name.as_str()).enumerate() {
        outputs.insert(output);
        let path = format!("output[{index}]");
        if !flow.sources.contains_key(output) {
            findings.add(path, format!("ensemble output '{output}' for ensemble {ensemble}' is not used"));
        } else if !reached.contains(output) {
            let mut message = format!("output '{output}' for ensemble '{ensemble}' is not written");
            let first_unwritten = flow.first_unwritten(output, &reached);
            if first_unwritten != output {
                message += &format!(": at least one of its depending tensors, '{first_unwritten}', is not connected");
            }
            findings.add(path, message);
        }
    }
    let leads_nowhere = |tensor: &str| !reached.contains(tensor) || !flow.read.contains(tensor);
    for tensor in flow.sources.keys().filter(|tensor| !outputs.contains(*tensor) && leads_nowhere(tensor)) {
        let message = format!("ensemble tensor '{tensor}' is unused in ensemble '{ensemble}'");
        findings.add("ensemble_scheduling", message);
    }
}
