//! From texts to what shall run: pure. Every mistake is reported with file, line and field. A text that cannot be read holds
//! everything as it is; a model that is wrong holds only itself (the compile step keeps its last good form).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crds::{TritonModel, TritonServer};
use k8s_openapi::api::core::v1::{ConfigMap, EnvVar};
use operator_core::{
    Manifest, ObjectRef, Observed, Problem, compile,
    decide::{self, Settings},
    defaults::{self, ServerSettings},
    documents::{self, Document, Mistake, Resource},
};

use super::files::Text;

/// What shall run.
#[derive(Debug, Default)]
pub(crate) struct Desired {
    /// By TritonServer.
    pub(crate) servers: BTreeMap<ObjectRef, WantedServer>,
}

/// One server that shall run.
#[derive(Debug)]
pub(crate) struct WantedServer {
    /// Settings of its process.
    pub(crate) settings: ServerSettings,
    /// Its environment, beyond ours.
    pub(crate) env: Vec<(String, String)>,
    /// Variables that a cluster would fill in, and nobody does here.
    pub(crate) unset_env: Vec<String>,
    /// GPUs it asks for.
    pub(crate) gpus: u32,
    /// It asks for TLS at its ports.
    pub(crate) is_encrypted: bool,
    /// It shall exist but not run.
    pub(crate) is_suspended: bool,
    /// What it serves.
    pub(crate) manifest: Manifest,
    /// ConfigMaps of its namespace: content by key.
    pub(crate) config_maps: Contents,
    /// Secrets of its namespace: content by key.
    pub(crate) secrets: Contents,
}

/// ConfigMaps or Secrets by name, each with the content of its keys.
pub(crate) type Contents = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// A mistake, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaint {
    file: String,
    mistake: Mistake,
}

/// What came of the texts.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What shall run; `None` if so much is wrong that everything stays as it is.
    pub(crate) desired: Option<Desired>,
    /// Everything that is wrong.
    pub(crate) complaints: Vec<Complaint>,
    /// What only a cluster needs, as `KIND NAME (FILE)`.
    pub(crate) not_needed: Vec<String>,
}

/// Reads the texts. `last` holds the manifest each server was last given.
pub(crate) fn desire(texts: &[Text], last: &BTreeMap<ObjectRef, Manifest>) -> Outcome {
    let mut read = Documents::default();
    for text in texts {
        read.add(text);
    }
    read.link();
    // what follows is compiled all the same: every mistake is reported at once
    let is_whole = read.complaints.is_empty();

    let servers: Vec<(ObjectRef, &TritonServer)> = read.servers().collect();
    let models: Vec<&TritonModel> = read.models().map(|(_, model)| model).collect();
    let mut desired = Desired::default();
    let mut problems = Vec::new();
    for (object, server) in servers {
        let observed = Observed { manifest: last.get(&object).cloned(), ..Observed::default() };
        let compiled = compile::compile(server, models.iter().copied(), &observed);
        problems.extend(compiled.problems.iter().filter(|problem| problem.object != object).cloned());
        // as a cluster would have it, so that what runs here runs there as well
        let on_cluster = decide::decide(server, &compiled, &observed, &Settings::default());
        problems.extend(on_cluster.err().unwrap_or_default());
        let wanted = WantedServer {
            settings: ServerSettings::of(&server.spec),
            env: variables(server)
                .filter(|variable| variable.value_from.is_none())
                .map(|variable| (variable.name.clone(), variable.value.clone().unwrap_or_default()))
                .collect(),
            unset_env: variables(server)
                .filter(|variable| variable.value_from.is_some())
                .map(|variable| variable.name.clone())
                .collect(),
            gpus: server.spec.gpu.as_ref().map_or(0, |gpu| match gpu.count {
                Some(count) => u32::try_from(count).unwrap_or(0),
                None => u32::try_from(gpu.resource_claims.len()).unwrap_or(0),
            }),
            is_encrypted: server.spec.tls.is_some(),
            is_suspended: defaults::replicas(&server.spec) == 0,
            manifest: compiled.manifest,
            config_maps: read.config_maps(&object.namespace),
            secrets: read.secrets(&object.namespace),
        };
        desired.servers.insert(object, wanted);
    }
    let server_is_wrong = problems.iter().any(|problem| problem.object.kind == "TritonServer");
    let found: Vec<Complaint> = problems.iter().map(|problem| read.complaint(problem)).collect();
    let mut complaints = std::mem::take(&mut read.complaints);
    complaints.extend(found);
    complaints.sort_by(|a, b| (&a.file, a.mistake.line).cmp(&(&b.file, b.mistake.line)));
    let is_usable = is_whole && !server_is_wrong;
    Outcome { desired: is_usable.then_some(desired), complaints, not_needed: read.not_needed }
}

/// All documents, each with the file it stands in.
#[derive(Default)]
struct Documents {
    documents: BTreeMap<ObjectRef, (String, Document)>,
    complaints: Vec<Complaint>,
    not_needed: Vec<String>,
}

impl Documents {
    fn add(&mut self, text: &Text) {
        let complain = |mistake| Complaint { file: text.name.clone(), mistake };
        let content = match &text.content {
            Ok(content) => content,
            Err(error) => {
                let message = format!("cannot be read: {error}");
                self.complaints.push(complain(mistake_at(1, String::new(), String::new(), message)));
                return;
            }
        };
        if is_kustomization(&text.name) {
            self.not_needed.push(format!("Kustomization ({})", text.name));
            return;
        }
        let read = documents::read(content);
        self.not_needed.extend(read.not_needed.iter().map(|title| format!("{title} ({})", text.name)));
        self.complaints.extend(read.mistakes.into_iter().map(complain));
        for document in read.documents {
            let object = document.object();
            if let Some((file, first)) = self.documents.get(&object) {
                let message = format!("the same resource stands in {file}, line {}: keep one of the two", first.line);
                let resource = format!("{} {}", object.kind, object.name);
                self.complaints.push(complain(mistake_at(document.line, resource, "metadata.name".into(), message)));
            } else {
                self.documents.insert(object, (text.name.clone(), document));
            }
        }
    }

    /// Finds the models that name no server.
    fn link(&mut self) {
        let servers: BTreeSet<ObjectRef> = self.servers().map(|(object, _)| object).collect();
        let lost: Vec<Problem> = self
            .models()
            .filter_map(|(object, model)| {
                let server = ObjectRef {
                    kind: "TritonServer".into(),
                    namespace: object.namespace.clone(),
                    name: model.spec.server_ref.name.clone(),
                };
                (!servers.contains(&server)).then(|| Problem {
                    object,
                    reason: operator_core::Reason::ServerNotFound,
                    path: "spec.serverRef.name".into(),
                    message: format!("there is no {server} in these files"),
                })
            })
            .collect();
        let lost: Vec<Complaint> = lost.iter().map(|problem| self.complaint(problem)).collect();
        if self.complaints.is_empty() && servers.is_empty() {
            let mut message = "there is no TritonServer in these files: nothing can be brought up".to_owned();
            if !self.not_needed.is_empty() {
                message += &format!("; passed over: {}", self.not_needed.join(", "));
            }
            let mistake = mistake_at(0, String::new(), String::new(), message);
            self.complaints.push(Complaint { file: String::new(), mistake });
        } else if self.complaints.iter().all(|complaint| complaint.mistake.resource.starts_with("TritonModel ")) {
            // a server that seems missing may stand in a document that cannot be read
            self.complaints.extend(lost);
        }
    }

    fn servers(&self) -> impl Iterator<Item = (ObjectRef, &TritonServer)> {
        self.documents.iter().filter_map(|(object, (_, document))| match &document.resource {
            Resource::Server(server) => Some((object.clone(), server.as_ref())),
            Resource::Model(_) | Resource::ConfigMap(_) | Resource::Secret(_) => None,
        })
    }

    fn models(&self) -> impl Iterator<Item = (ObjectRef, &TritonModel)> {
        self.documents.iter().filter_map(|(object, (_, document))| match &document.resource {
            Resource::Model(model) => Some((object.clone(), model.as_ref())),
            Resource::Server(_) | Resource::ConfigMap(_) | Resource::Secret(_) => None,
        })
    }

    fn config_maps(&self, namespace: &str) -> Contents {
        let maps = self.documents.iter().filter_map(|(object, (_, document))| match &document.resource {
            Resource::ConfigMap(map) if object.namespace == namespace => Some((object.name.clone(), contents(map))),
            Resource::ConfigMap(_) | Resource::Secret(_) | Resource::Server(_) | Resource::Model(_) => None,
        });
        maps.collect()
    }

    fn secrets(&self, namespace: &str) -> Contents {
        let secrets = self.documents.iter().filter_map(|(object, (_, document))| match &document.resource {
            Resource::Secret(secret) if object.namespace == namespace => {
                let data = secret.data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone()));
                let texts = secret.string_data.iter().flatten();
                // stringData wins, as on a cluster
                let keys = data.chain(texts.map(|(key, text)| (key.clone(), text.clone().into_bytes())));
                Some((object.name.clone(), keys.collect()))
            }
            Resource::ConfigMap(_) | Resource::Secret(_) | Resource::Server(_) | Resource::Model(_) => None,
        });
        secrets.collect()
    }

    fn complaint(&self, problem: &Problem) -> Complaint {
        match self.documents.get(&problem.object) {
            Some((file, document)) => Complaint { file: file.clone(), mistake: document.mistake(problem) },
            None => {
                let resource = problem.object.to_string();
                let mistake = mistake_at(0, resource, problem.path.clone(), problem.message.clone());
                Complaint { file: String::new(), mistake }
            }
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mistake { line, resource, path, message, .. } = &self.mistake;
        if !self.file.is_empty() {
            write!(f, "{}:{line}: ", self.file)?;
        }
        for part in [resource, path] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(message)
    }
}

/// A file that only kustomize reads, and that need not say what it is.
fn is_kustomization(file: &str) -> bool {
    let name = std::path::Path::new(file).file_name().and_then(|name| name.to_str());
    matches!(name, Some("kustomization.yaml" | "kustomization.yml" | "Kustomization"))
}

fn mistake_at(line: usize, resource: String, path: String, message: String) -> Mistake {
    Mistake { line, column: 1, resource, path, message }
}

fn contents(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let data = map.data.iter().flatten().map(|(key, text)| (key.clone(), text.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone()));
    data.chain(binary).collect()
}

fn variables(server: &TritonServer) -> impl Iterator<Item = &EnvVar> {
    server.spec.server.iter().flat_map(|options| &options.env)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str =
        "apiVersion: triton-operator.dev/v1alpha1\nkind: TritonServer\nmetadata: {name: vision}\nspec: {}\n";

    fn model(name: &str, server: &str, text: &str) -> String {
        format!(
            "apiVersion: triton-operator.dev/v1alpha1\nkind: TritonModel\nmetadata: {{name: {name}}}\nspec:\n  serverRef: \
             {{name: {server}}}\n  format: python\n  source:\n    inline: {{files: {{1/model.py: {text}}}}}\n"
        )
    }

    fn texts(contents: &[&str]) -> Vec<Text> {
        let text =
            |(at, content): (usize, &&str)| Text { name: format!("{at}.yaml"), content: Ok((*content).to_owned()) };
        contents.iter().enumerate().map(text).collect()
    }

    fn complaints(outcome: &Outcome) -> Vec<String> {
        outcome.complaints.iter().map(ToString::to_string).collect()
    }

    fn object() -> ObjectRef {
        ObjectRef { kind: "TritonServer".into(), namespace: "default".into(), name: "vision".into() }
    }

    #[test]
    fn servers_models_and_config_maps_find_each_other_across_files() {
        let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: tiny}\ndata: {a: x}\nbinaryData: {b: AQI=}\n";
        let outcome =
            desire(&texts(&[&model("digits", "vision", "x"), &format!("{SERVER}---\n{map}")]), &BTreeMap::new());
        assert_eq!(complaints(&outcome), [""; 0]);
        let wanted = &outcome.desired.unwrap().servers[&object()];
        assert_eq!(wanted.manifest.models[0].name, "digits");
        assert_eq!(wanted.manifest.required(), BTreeSet::from(["digits".to_owned()]));
        assert_eq!(wanted.config_maps["tiny"], BTreeMap::from([("a".into(), b"x".to_vec()), ("b".into(), vec![1, 2])]));
    }

    #[test]
    fn a_folder_for_a_cluster_is_taken_as_it_is() {
        let secret =
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: AQI=, b: AQI=}\nstringData: {b: x}\n";
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n";
        let mut all = texts(&[SERVER, secret, namespace]);
        all.push(Text { name: "app/kustomization.yaml".into(), content: Ok("resources: [a.yaml]\n".into()) });
        let outcome = desire(&all, &BTreeMap::new());
        assert_eq!(complaints(&outcome), [""; 0]);
        assert_eq!(outcome.not_needed, ["Namespace default (2.yaml)", "Kustomization (app/kustomization.yaml)"]);
        let wanted = &outcome.desired.unwrap().servers[&object()];
        assert_eq!(wanted.secrets["s"], BTreeMap::from([("a".into(), vec![1, 2]), ("b".into(), b"x".to_vec())]));
    }

    #[test]
    fn variables_that_only_a_cluster_can_fill_in_are_told_apart() {
        let env = "{server: {env: [{name: A, value: x}, {name: B, valueFrom: {secretKeyRef: {name: s, key: k}}}]}}";
        let outcome = desire(&texts(&[&SERVER.replace("{}", env)]), &BTreeMap::new());
        assert_eq!(complaints(&outcome), [""; 0]);
        let wanted = &outcome.desired.unwrap().servers[&object()];
        assert_eq!(
            (wanted.env.as_slice(), wanted.unset_env.as_slice()),
            ([("A".into(), "x".into())].as_slice(), ["B".into()].as_slice())
        );
    }

    #[test]
    fn a_text_that_cannot_be_read_holds_everything() {
        let wrong = SERVER.replace("spec: {}", "spec: {replicas: many}");
        let outcome = desire(&texts(&[&model("digits", "vision", "x"), &wrong]), &BTreeMap::new());
        assert!(outcome.desired.is_none());
        let complaints = complaints(&outcome);
        assert!(complaints[0].starts_with("1.yaml:4: TritonServer vision: spec.replicas: "), "{complaints:?}");
        assert_eq!(complaints.len(), 1, "that the server is missing is not held against the model");
    }

    #[test]
    fn a_model_without_its_server_and_a_resource_written_twice_are_told() {
        let lost = model("digits", "sight", "x");
        let outcome = desire(&texts(&[SERVER, &lost]), &BTreeMap::new());
        let expected =
            "1.yaml:5: TritonModel digits: spec.serverRef.name: there is no TritonServer default/sight in these files";
        assert_eq!(complaints(&outcome), [expected]);
        let outcome = desire(&texts(&[SERVER, SERVER]), &BTreeMap::new());
        assert!(
            complaints(&outcome)[0]
                .contains("1.yaml:1: TritonServer vision: metadata.name: the same resource stands in 0.yaml")
        );
        let outcome = desire(&texts(&["# nothing\n"]), &BTreeMap::new());
        assert_eq!(complaints(&outcome), ["there is no TritonServer in these files: nothing can be brought up"]);
        let missing = Text { name: "x.yaml".into(), content: Err("No such file".into()) };
        assert_eq!(complaints(&desire(&[missing], &BTreeMap::new())), ["x.yaml:1: cannot be read: No such file"]);
    }

    #[test]
    fn every_mistake_of_several_documents_is_told_at_once() {
        let (unknown, lost, outside) = (
            model("a", "vision", "x").replace("format:", "formt:"),
            model("b", "sight", "x"),
            model("c", "vision", "x").replace("1/model.py", "../model.py"),
        );
        let outcome = desire(&texts(&[&outside, &lost, &unknown, SERVER]), &BTreeMap::new());
        let complaints = complaints(&outcome);
        assert_eq!(complaints.len(), 3, "{complaints:?}");
        for (complaint, words) in complaints.iter().zip(["../model.py", "default/sight", "unknown field 'formt'"]) {
            assert!(complaint.contains(words), "{complaint}");
        }
        assert!(outcome.desired.is_none());
    }

    #[test]
    fn what_a_cluster_would_refuse_of_a_server_is_refused_here() {
        for (spec, words) in [
            (
                "{podTemplate: {spec: {hostNetwork: true}}}",
                "spec.podTemplate.spec.hostNetwork: is refused: the pods share nothing with their node",
            ),
            (
                "{podTemplate: {spec: {hostNetwerk: true}}}",
                "spec.podTemplate.spec.hostNetwerk: is no field of a pod template",
            ),
            (
                "{autoscaling: {maxReplicas: 2, metrics: {queueLatency: {target: 0ms}}}}",
                "spec.autoscaling.metrics.queueLatency.target: is no time at all",
            ),
            (
                "{autoscaling: {maxReplicas: 2, metrics: {raw: [{typo: Resource}]}}}",
                "spec.autoscaling.metrics.raw[0]: has no type: write",
            ),
        ] {
            let outcome = desire(&texts(&[&SERVER.replace("{}", spec)]), &BTreeMap::new());
            assert!(outcome.desired.is_none(), "{spec}");
            let complaints = complaints(&outcome);
            let expect = format!("0.yaml:4: TritonServer vision: {words}");
            assert!(complaints.len() == 1 && complaints[0].starts_with(&expect), "{complaints:?}");
        }
        let outcome = desire(&texts(&[&SERVER.replace("name: vision", "name: 2nd")]), &BTreeMap::new());
        assert_eq!(complaints(&outcome).len(), 1, "each mistake is told once");
    }

    #[test]
    fn what_is_passed_over_is_named_where_nothing_else_is_there() {
        let other = "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: flowers}\n";
        let outcome = desire(&texts(&[other]), &BTreeMap::new());
        let expected = "there is no TritonServer in these files: nothing can be brought up; passed over: InferenceService flowers \
                        (0.yaml)";
        assert_eq!(complaints(&outcome), [expected]);
    }

    #[test]
    fn a_model_that_becomes_wrong_keeps_its_last_good_form_and_holds_up_nobody() {
        let good = model("digits", "vision", "x");
        let first = desire(&texts(&[SERVER, &good]), &BTreeMap::new()).desired.unwrap();
        let last = BTreeMap::from([(object(), first.servers[&object()].manifest.clone())]);
        let wrong = good.replace("1/model.py", "../model.py");
        let second = desire(&texts(&[SERVER, &wrong, &model("new", "vision", "pass")]), &last);
        assert!(complaints(&second)[0].starts_with("1.yaml:"), "{:?}", complaints(&second));
        let manifest = &second.desired.unwrap().servers[&object()].manifest;
        assert_eq!(manifest.model("digits"), last[&object()].model("digits"));
        assert!(manifest.model("new").is_some());
    }
}
