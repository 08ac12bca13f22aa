//! Repository agents: what a configuration has done with the model's folder before a load.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::fs;

use harness::Harness;
use server_core::error::Code;
use server_engine::LoadParameters;

const HELLO: &str = "5d41402abc4b2a76b9719d911017c592"; // md5 of "hello"

fn model(harness: &Harness, file: &str, checksum: &str) {
    let agent = format!(
        "model_repository_agents {{ agents {{ name: 'checksum' parameters {{ key: 'MD5:{file}' value: '{checksum}' }} }} }}"
    );
    harness.model("m", &agent, &[1]);
}

#[tokio::test]
async fn a_file_with_another_checksum_fails_the_load_and_leaves_what_serves() {
    let harness = Harness::new();
    harness.write("m/1/weights", "hello");
    model(&harness, "1/weights", HELLO);
    let engine = harness.explicit();
    engine.load("m", LoadParameters::default()).await.unwrap();
    harness.write("m/1/weights", "hallo");
    let error = engine.load("m", LoadParameters::default()).await.unwrap_err();
    let answer = "failed to load 'm', failed to poll from model repository";
    assert_eq!((error.code, &*error.message), (Code::Internal, answer));
    let line = engine.index(true).unwrap().remove(0);
    let expected =
        format!("Mismatched MD5 hash for file 1/weights, expect: {HELLO}, got: 598d4c200461b81522a3328565c25f7c");
    assert_eq!(line.reason, expected);
    harness.write("m/1/weights", "hello");
    engine.load("m", LoadParameters::default()).await.unwrap();
    assert_eq!(engine.index(true).unwrap().remove(0).reason, "");
}

#[tokio::test]
async fn a_check_that_cannot_be_made_fails_the_load() {
    let check = async |file: &str, expected: &str| {
        let harness = Harness::new();
        fs::create_dir_all(harness.path("m/1/folder")).unwrap();
        model(&harness, file, HELLO);
        let engine = harness.explicit();
        assert!(engine.load("m", LoadParameters::default()).await.is_err());
        let reason = engine.index(false).unwrap().remove(0).reason;
        assert!(reason.starts_with(expected), "{reason}");
    };
    check("1/nothing", "failed to open text file for read 1/nothing: No such file or directory").await;
    check("1/folder", "failed to open text file for read 1/folder: it is not a regular file").await;
    check("../../../../etc/passwd", "Invalid file parameter '../../../../etc/passwd' with normalized path").await;
}

#[tokio::test]
async fn an_agent_that_there_is_not_fails_the_load() {
    let harness = Harness::new();
    harness.model("m", "model_repository_agents { agents { name: 'decrypt' } }", &[1]);
    let engine = harness.explicit();
    assert!(engine.load("m", LoadParameters::default()).await.is_err());
    let reason = engine.index(false).unwrap().remove(0).reason;
    let expected = "unable to find 'libtritonrepoagent_decrypt.so' for repo agent 'decrypt', searched: \
                    /opt/tritonserver/repoagents;";
    assert!(reason.starts_with(expected), "{reason}");
}
