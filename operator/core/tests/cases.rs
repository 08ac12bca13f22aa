//! Resources in, what the pods and the user are told out: each `cases/NAME.yaml` with its `cases/NAME.out`.
//! `UPDATE=1 cargo test -p operator-core` writes the latter anew; the difference is for people to read.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::{fmt::Write, fs, path::PathBuf};

use crds::{TritonModel, TritonServer};
use operator_core::{
    Observed, compile,
    compile::Placement,
    documents::{self, Document, Read, Resource},
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

#[test]
fn every_case_comes_out_as_it_is_written_down() {
    let mut cases: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    let mut stale = vec![];
    for case in cases {
        let found = outcome(&fs::read_to_string(&case).unwrap());
        let expected = case.with_extension("out");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != found {
            stale.push(format!("{}\n{found}", expected.display()));
        }
    }
    assert!(stale.is_empty(), "these came out otherwise:\n{}", stale.join("\n"));
}

fn outcome(text: &str) -> String {
    let read = documents::read(text);
    let mut out = String::new();
    for mistake in &read.mistakes {
        writeln!(out, "mistake: {mistake}").unwrap();
    }
    for server in servers(&read) {
        write_server(&mut out, server, &read);
    }
    out
}

fn write_server(out: &mut String, server: &TritonServer, read: &Read) {
    let compiled = compile(server, models(read), &Observed::default());
    for problem in &compiled.problems {
        let document = read.documents.iter().find(|document| document.object() == problem.object).unwrap();
        writeln!(out, "{}: {}", problem.reason, document.mistake(problem)).unwrap();
    }
    for model in &compiled.models {
        let placement = match &model.placement {
            Placement::Placed => "placed".to_owned(),
            Placement::Kept { reason, .. } => format!("kept ({reason})"),
            Placement::LeftOut { reason, .. } => format!("left out ({reason})"),
        };
        writeln!(out, "{} as '{}': {placement}", model.object, model.name).unwrap();
    }
    if let Some(memory) = compiled.gpu_memory {
        writeln!(out, "GPU memory: {} of {}", memory.requested, memory.budget).unwrap();
    }
    writeln!(out, "{}", serde_json::to_string_pretty(&compiled.manifest).unwrap()).unwrap();
}

fn servers(read: &Read) -> impl Iterator<Item = &TritonServer> {
    read.documents.iter().filter_map(|Document { resource, .. }| match resource {
        Resource::Server(server) => Some(server.as_ref()),
        _ => None,
    })
}

fn models(read: &Read) -> impl Iterator<Item = &TritonModel> {
    read.documents.iter().filter_map(|Document { resource, .. }| match resource {
        Resource::Model(model) => Some(model.as_ref()),
        _ => None,
    })
}
