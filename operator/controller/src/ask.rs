//! `triton-operator ask`: one request to a model that gives back what it gets, again and again until it answers. `helm test` runs it
//! in the cluster, where the operator's own image is there and no other need be.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Uri};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

/// What the model is given, and what it has to give back.
const NUMBERS: [f64; 2] = [1.0, 2.0];
/// Pause between two requests.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes.
const ANSWER_MAX: usize = 64 << 10;

/// Arguments of `ask`.
#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// Base address of the server, as in a TritonServer's status.endpoints.http
    #[arg(long, value_name = "URL")]
    url: String,

    /// Name of the model: one of the identity backend, with INPUT0 and OUTPUT0 of TYPE_FP32
    #[arg(long, value_name = "NAME")]
    model: String,

    /// How long to go on asking, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

/// Asks until the model answers or the time is over.
pub(crate) fn run(args: &AskArgs) -> anyhow::Result<ExitCode> {
    let url = format!("{}/v2/models/{}/infer", args.url.trim_end_matches('/'), args.model);
    let url: Uri = url.parse().with_context(|| format!("'{url}' is no address"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(until_answered(&url, Duration::from_secs(args.timeout)))?;
    crate::print(&format!("{url} answers\n"))
}

async fn until_answered(url: &Uri, limit: Duration) -> anyhow::Result<()> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let end = Instant::now() + limit;
    loop {
        let said = timeout(REQUEST, ask(&client, url)).await.unwrap_or_else(|_| bail!("no answer within {REQUEST:?}"));
        match said {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() + PAUSE >= end => {
                return Err(error.context(format!("{url} did not answer within {limit:?}")));
            }
            Err(_) => sleep(PAUSE).await, // the server may still be starting
        }
    }
}

async fn ask(client: &Client<HttpConnector, Full<Bytes>>, url: &Uri) -> anyhow::Result<()> {
    let input = json!({ "name": "INPUT0", "datatype": "FP32", "shape": [NUMBERS.len()], "data": NUMBERS });
    let body = Full::from(json!({ "inputs": [input] }).to_string());
    let request = Request::post(url).header("content-type", "application/json").body(body)?;
    let answer = client.request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_MAX)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))?
        .to_bytes();
    let text = String::from_utf8_lossy(&body);
    if !status.is_success() {
        bail!("{status}: {text}");
    }
    let answer: Value = serde_json::from_slice(&body).with_context(|| format!("the answer is no JSON: {text}"))?;
    if answer["outputs"][0]["data"] != json!(NUMBERS) {
        bail!("the model was given {NUMBERS:?} and answered {text}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A server that gives these answers, one a connection, the last one for ever.
    async fn server(answers: Vec<(u16, String)>) -> Uri {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v2/models/echo/infer", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (status, body) = &answers[answers.len().min(number + 1) - 1];
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let head =
                    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            }
        });
        url.parse().unwrap()
    }

    const RIGHT: &str = r#"{"outputs":[{"name":"OUTPUT0","datatype":"FP32","shape":[2],"data":[1.0,2.0]}]}"#;

    #[tokio::test]
    async fn a_model_that_starts_is_asked_until_it_answers() {
        let url = server(vec![(503, "not yet".into()), (400, "{}".into()), (200, RIGHT.into())]).await;
        until_answered(&url, Duration::from_secs(60)).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_right_answer_is_shown_when_the_time_is_over() {
        let wrong = RIGHT.replace("2.0", "3.0");
        for (status, body) in [(503, "out of order"), (200, "<html>"), (200, &wrong), (200, "{}")] {
            let url = server(vec![(status, body.to_owned())]).await;
            let error = format!("{:#}", until_answered(&url, Duration::ZERO).await.unwrap_err());
            assert!(error.contains(body) && error.contains("did not answer within"), "{error}");
        }
        // nobody there, and an answer without end
        let nobody: Uri = "http://127.0.0.1:1/".parse().unwrap();
        until_answered(&nobody, Duration::ZERO).await.unwrap_err();
        let url = server(vec![(200, "x".repeat(ANSWER_MAX + 1))]).await;
        until_answered(&url, Duration::ZERO).await.unwrap_err();
    }
}
