//! The program as a user runs it, before server programs that misbehave: small scripts stand for a server that dies, one
//! that will not end, one that is orphaned. How it works with the real server is tested in `e2e`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

const SERVER: &str =
    "apiVersion: triton-operator.dev/v1alpha1\nkind: TritonServer\nmetadata: {name: vision}\nspec: {}\n";

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_triton-operator"));
    command.env_remove("TRITONSERVER");
    command
}

fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

/// A folder with a resource file and a script that stands for the server.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("vision.yaml"), SERVER).unwrap();
        let server = folder.path().join("server");
        fs::write(&server, format!("#!/bin/sh\n{script}")).unwrap();
        fs::set_permissions(&server, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn up(&self) -> Up {
        let mut command = program();
        command.arg("up").arg("-f").arg(self.path("vision.yaml")).arg("--tritonserver").arg(self.path("server"));
        command.args(["--http-port=0", "--grpc-port=0", "--metrics-port=0"]).current_dir(self.folder.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Up { child, lines }
    }

    /// A pipe that ends when the server that holds it does. Waits until one does.
    fn held_pipe(&self) -> fs::File {
        fs::File::open(self.path("pipe")).unwrap()
    }
}

struct Up {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Up {
    fn until(&mut self, words: &str) -> String {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "it ended without '{words}': {said}");
            if line.contains(words) {
                return line;
            }
            said += &line;
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended in every test that went well
        let _ = self.child.wait();
    }
}

fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn crds_are_printed_as_yaml() {
    let output = program().arg("crds").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert_eq!(text.matches("\nkind: CustomResourceDefinition").count(), 2, "{text}");
}

#[test]
fn a_mistake_ends_it_before_anything_runs() {
    let place = Place::new("exit 0");
    fs::write(place.path("vision.yaml"), SERVER.replace("spec: {}", "spec: {replicas: many}")).unwrap();
    let mut command = program();
    command.arg("up").arg("-f").arg("vision.yaml").arg("--tritonserver").arg("./server").current_dir(place.path("."));
    let (output, said) = run(&mut command);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("nothing was brought up") && said.contains("vision.yaml:4: "), "{said}");
}

#[test]
fn a_server_program_that_is_nowhere_is_looked_for_and_the_places_named() {
    let place = Place::new("exit 0");
    // a copy of the program with nothing beside it
    let alone = place.path("alone");
    fs::create_dir(&alone).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_triton-operator"), alone.join("triton-operator")).unwrap();
    let mut command = Command::new(alone.join("triton-operator"));
    command.arg("up").arg("-f").arg(place.path("vision.yaml")).env_remove("TRITONSERVER").env("PATH", "/nowhere");
    let (output, said) = run(&mut command);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("alone, /nowhere") && said.contains("--tritonserver"), "{said}");
}

#[test]
fn a_server_that_dies_is_started_again_and_its_last_words_are_told() {
    let place = Place::new("echo 'error: out of luck' >&2\nexit 3\n");
    let mut up = place.up();
    let line = up.until("exited with status 3");
    assert!(line.ends_with("it is started again in 1 s\n"), "{line}");
    up.until("vision | error: out of luck");
    let line = up.until("exited with status 3");
    assert!(line.ends_with("it is started again in 2 s\n"), "{line}");
    up.signal("-TERM");
    up.until("Stopped");
    assert_eq!(up.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_server_that_will_not_end_is_killed_at_the_second_request() {
    let place = Place::new("trap '' TERM INT\nexec 3>pipe\nwhile :; do sleep 1; done\n");
    make_pipe(&place.path("pipe"));
    let mut up = place.up();
    let mut held = place.held_pipe();
    up.signal("-INT");
    up.until("Stopping");
    up.signal("-INT");
    up.until("did not end in time and was killed");
    assert_eq!(up.child.wait().unwrap().code(), Some(1));
    assert_eq!(held.read(&mut [0]).unwrap(), 0, "the server is gone");
}

#[test]
fn a_killed_parent_leaves_no_server_behind() {
    let place = Place::new("exec 3>pipe\nexec sleep 1000\n");
    make_pipe(&place.path("pipe"));
    let mut up = place.up();
    let mut held = place.held_pipe();
    up.signal("-KILL");
    up.child.wait().unwrap();
    assert_eq!(held.read(&mut [0]).unwrap(), 0, "the server is gone");
}
