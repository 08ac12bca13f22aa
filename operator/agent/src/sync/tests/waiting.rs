//! One model's fetch or load keeps no other one waiting, and what nobody wants any more ends.

use super::*;

fn from(address: SocketAddr, name: &str) -> ManifestModel {
    model(name, ManifestSource::Http { uri: format!("http://{address}/{name}.zip"), secret: None })
}

/// Takes connections and says nothing.
async fn silent() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn connected(listener: &TcpListener) -> tokio::net::TcpStream {
    tokio::time::timeout(Duration::from_secs(20), listener.accept()).await.expect("nobody connects").unwrap().0
}

#[tokio::test]
async fn what_is_at_hand_and_what_comes_from_elsewhere_do_not_wait_for_a_slow_place() {
    let (listener, address) = silent().await;
    let mut harness = Harness::without_agent(Vec::new()).await;
    harness.at_once = 1;
    harness.start_agent();
    let slow: Vec<_> = (0..10).map(|number| from(address, &format!("slow-{number}"))).collect();
    harness.want(slow.clone());
    let _first = connected(&listener).await;
    let elsewhere = format!("http://{}/files/private/model.py", harness.address);
    write(&harness.root.path().join("secrets/token/token"), "right");
    let elsewhere = model("elsewhere", ManifestSource::Http { uri: elsewhere, secret: Some("token".into()) });
    let all = || slow.iter().cloned().chain([inline("at-hand", "x"), elsewhere.clone()]).collect();
    harness.want(all());
    let are_ready =
        |state: &State| ["at-hand", "elsewhere"].iter().all(|name| state.models[*name].phase == Phase::Ready);
    harness.until("ready", are_ready).await;
}

#[tokio::test]
async fn a_fetch_that_nobody_wants_any_more_ends_at_once() {
    let (listener, address) = silent().await;
    let mut harness = Harness::without_agent(vec![from(address, "first")]).await;
    harness.at_once = 1;
    harness.start_agent();
    let first = connected(&listener).await;
    harness.want(vec![from(address, "first"), from(address, "second")]);
    harness.want(vec![from(address, "second")]);
    // well before the first would be given up for its silence
    let _second = connected(&listener).await;
    drop(first);
}

#[tokio::test]
async fn a_fetch_is_given_up_after_the_time_that_its_model_allows() {
    let (_listener, address) = silent().await;
    let mut slow = from(address, "slow");
    slow.load.fetch_timeout = Some(crds::parts::Duration::from(Duration::from_millis(200)));
    slow.load.retries = 0;
    let harness = Harness::new(vec![slow]).await;
    let state = harness.settled().await;
    let failure = state.models["slow"].failure().unwrap();
    assert_eq!(failure.reason, Reason::DownloadFailed);
    assert!(
        failure.message.starts_with("not fetched within 200ms: raise spec.loadPolicy.timeout"),
        "{}",
        failure.message
    );
}

#[tokio::test]
async fn a_load_that_waits_for_its_turn_goes_with_its_model() {
    let mut harness = Harness::without_agent(vec![inline("a", "hang")]).await;
    harness.at_once = 1;
    harness.start_agent();
    harness.until("loading", |state| state.models["a"].phase == Phase::Loading).await;
    // the state says so a moment before the server is asked
    let asked = async {
        while harness.server.calls().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asked).await.expect("the server is asked to load it");
    harness.want(vec![inline("a", "hang"), inline("b", "one")]);
    harness.until("waiting", |state| state.models.get("b").is_some_and(|b| b.phase == Phase::Loading)).await;
    harness.want(vec![inline("a", "hang")]);
    harness.until("gone", |state| !state.models.contains_key("b")).await;
    assert_eq!(harness.server.calls(), ["load a", "unload b"]);
}
