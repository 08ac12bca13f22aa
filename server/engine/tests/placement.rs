//! Where instances run: host policies bind them to processors, and passive ones are there without being asked.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::{fs, path::PathBuf, sync::atomic::Ordering};

use harness::{Harness, ask, scripted::Probe, send};
use server_core::host_policy::HostPolicies;
use server_engine::{Engine, LoadParameters, Options};

/// The processors that the thread of that name may run on, as the kernel lists them; empty if there is none, for threads
/// may end while they are looked at.
fn processors_of(thread: &str) -> String {
    let of_task = |task: PathBuf| {
        let name = fs::read_to_string(task.join("comm")).ok()?;
        let status = fs::read_to_string(task.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        (name.trim() == thread).then(|| line.trim().to_owned())
    };
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks.filter_map(|task| of_task(task.ok()?.path())).next().unwrap_or_default()
}

/// The first processor that this process may use.
fn first_processor() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().split(['-', ',']).next().unwrap().parse().unwrap()
}

fn policies(settings: &[(&str, &str, &str)]) -> Options {
    let mut policies = HostPolicies::default();
    for (policy, key, value) in settings {
        policies.set(policy, key, value);
    }
    Options { host_policies: policies, ..Options::default() }
}

async fn answers(engine: &Engine, model: &str) -> bool {
    send(engine, ask(model, &[1.0])).unwrap().response().await.is_ok()
}

#[tokio::test]
async fn instances_run_where_their_host_policy_says() {
    let first = first_processor();
    let (range, beyond) = (format!("{first}-{first}"), format!("{first}-1023"));
    let harness = Harness::new();
    harness.scripted("named", "", "instance_group { name: 'near' kind: KIND_CPU host_policy: 'near' }", &[1]);
    harness.scripted("unnamed", "", "instance_group { name: 'plain' kind: KIND_CPU }", &[1]);
    harness.scripted("other", "", "instance_group { name: 'free' kind: KIND_CPU host_policy: 'nobody' }", &[1]);
    harness.scripted("node", "", "instance_group { name: 'node' kind: KIND_CPU host_policy: 'node' }", &[1]);
    let settings = [
        ("near", "cpu-cores", &*range),
        ("cpu", "cpu-cores", &*beyond),
        ("node", "numa-node", "0"),
        ("near", "x", "y"),
    ];
    let (engine, probe) = harness.with_script_and(policies(&settings));
    for model in ["named", "unnamed", "other"] {
        engine.load(model, LoadParameters::default()).await.unwrap();
        assert!(answers(&engine, model).await);
    }
    assert_eq!(processors_of("near_0"), first.to_string());
    assert_eq!(processors_of("free_0"), processors_of_process());
    assert!(processors_of("plain_0").starts_with(&first.to_string()), "those beyond do not matter");
    if fs::exists("/sys/devices/system/node/node0").unwrap() {
        engine.load("node", LoadParameters::default()).await.unwrap();
        assert!(answers(&engine, "node").await);
    } else {
        println!("skipped: the kernel tells nothing of numa nodes");
    }
    assert_eq!(probe.inline_runs(), 0, "callers' threads are not where the policy says");

    // The policy is changed in place: a new instance takes the place of the old.
    let opened = probe.opened.load(Ordering::SeqCst);
    harness.scripted("other", "", "instance_group { name: 'free' kind: KIND_CPU host_policy: 'near' }", &[]);
    engine.load("other", LoadParameters::default()).await.unwrap();
    assert_eq!(probe.opened.load(Ordering::SeqCst), opened);
    harness::until(|| processors_of("free_0") == first.to_string()).await;
}

fn processors_of_process() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_policy_that_cannot_be_followed_fails_the_load() {
    let check = async |key: &str, value: &str, expected: &str| {
        let harness = Harness::new();
        harness.model("m", "instance_group { kind: KIND_CPU }", &[1]);
        let (engine, _) = harness.with_script_and(policies(&[("cpu", key, value)]));
        let error = engine.load("m", LoadParameters::default()).await.unwrap_err();
        let text = format!("load failed for model 'm': version 1 is at UNAVAILABLE state: {expected}");
        assert!(error.message.starts_with(&text), "{error}");
    };
    check("cpu-cores", "3", "Invalid argument: host policy setting 'cpu-cores' format is '<lower_cpu_core_id>-").await;
    check("cpu-cores", "a-b", "Invalid argument: Parsing 'cpu-cores' value: Can't parse 'a' to integer").await;
    check("cpu-cores", "1023-1023", "Internal: Unable to set NUMA thread affinity: Invalid argument").await;
    check("cpu-cores", "2-1", "Internal: Unable to set NUMA thread affinity: Invalid argument").await;
    check("numa-node", "x", "Invalid argument: Parsing 'numa-node' value: Can't parse 'x' to integer").await;
    check("numa-node", "999", "Internal: Unable to set NUMA memory policy: Invalid argument: 'numa-node' is 999").await;
    check("numa-node", "-1", "Internal: Unable to set NUMA memory policy: Invalid argument: 'numa-node' is -1").await;
}

fn instances(probe: &Probe) -> usize {
    probe.instances.load(Ordering::SeqCst)
}

#[tokio::test]
async fn passive_instances_are_made_and_never_asked() {
    let harness = Harness::new();
    let groups = |passive: u32| {
        format!(
            "instance_group [ {{ name: 'idle' count: {passive} kind: KIND_CPU passive: true }}, \
             {{ name: 'busy' kind: KIND_CPU }} ]"
        )
    };
    harness.scripted("m", "", &groups(2), &[1]);
    let (engine, probe) = harness.with_script();
    engine.load("m", LoadParameters::default()).await.unwrap();
    assert_eq!(instances(&probe), 3);
    for _ in 0..20 {
        assert!(answers(&engine, "m").await);
    }
    let threads: std::collections::BTreeSet<_> = probe.threads.lock().iter().map(|id| format!("{id:?}")).collect();
    assert!(threads.len() - usize::from(probe.inline_runs() > 0) <= 1, "{threads:?}");

    harness.scripted("m", "", &groups(1), &[]);
    engine.load("m", LoadParameters::default()).await.unwrap();
    assert!(answers(&engine, "m").await);
    harness::until(|| instances(&probe) == 2).await;
    engine.unload("m", false).await.unwrap();
    harness::until(|| instances(&probe) == 0).await;

    harness.scripted("m", "", "instance_group { kind: KIND_CPU passive: true }", &[]);
    let error = engine.load("m", LoadParameters::default()).await.unwrap_err();
    let expected = "must have an instance group that is not passive: passive instances are given no requests for m";
    assert!(error.message.contains(expected), "{error}");
}
