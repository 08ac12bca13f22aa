//! `triton-operator ask`: whether a server is ready, whether a model of it is, and whether that gives back what it gets, each asked again
//! and again until it is so. `helm test` runs it in the cluster, where the operator's own image is there and no other need be; so it tells
//! what was checked, what is waited for, and what is wrong in the end.

use std::{fmt, process::ExitCode, time::Duration};

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

    /// What to say beside the error if it does not answer
    #[arg(long, value_name = "TEXT")]
    advice: Option<String>,
}

/// What is checked, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Server,
    Model,
    Answer,
}

impl Check {
    const ALL: [Self; 3] = [Self::Server, Self::Model, Self::Answer];
}

/// A model of a server.
struct Asked {
    server: String,
    model: String,
}

impl Asked {
    fn uri(&self, check: Check) -> anyhow::Result<Uri> {
        let Self { server, model } = self;
        let url = match check {
            Check::Server => format!("{server}/v2/health/ready"),
            Check::Model => format!("{server}/v2/models/{model}/ready"),
            Check::Answer => format!("{server}/v2/models/{model}/infer"),
        };
        url.parse().with_context(|| format!("'{url}' is no address"))
    }

    /// What is so once it is checked.
    fn passed(&self, check: Check) -> String {
        let Self { server, model } = self;
        match check {
            Check::Server => format!("the server at {server} is ready"),
            Check::Model => format!("model '{model}' is ready"),
            Check::Answer => format!("model '{model}' was given {NUMBERS:?} and gave it back"),
        }
    }

    fn failed(&self, check: Check) -> String {
        let Self { server, model } = self;
        match check {
            Check::Server => format!("the server at {server} is not ready"),
            Check::Model => format!("model '{model}' is not ready"),
            Check::Answer => format!("model '{model}' does not answer as it should"),
        }
    }
}

/// Asks until the model answers or the time is over.
pub(crate) fn run(args: &AskArgs) -> anyhow::Result<ExitCode> {
    let asked = Asked { server: args.url.trim_end_matches('/').to_owned(), model: args.model.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let say = |line: &dyn fmt::Display| drop(crate::stdout::print(&format!("{line}\n")));
    match runtime.block_on(until_answered(&asked, Duration::from_secs(args.timeout), say)) {
        Ok(()) => crate::stdout::print(&format!("{} answers\n", asked.uri(Check::Answer)?)),
        Err(error) => Err(match &args.advice {
            Some(advice) => anyhow::anyhow!("{error:#}\n{advice}"),
            None => error,
        }),
    }
}

async fn until_answered(asked: &Asked, limit: Duration, say: impl Fn(&dyn fmt::Display)) -> anyhow::Result<()> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let begun = Instant::now();
    for check in Check::ALL {
        let uri = asked.uri(check)?;
        let mut waited_for = String::new();
        loop {
            let said = timeout(REQUEST, ask(&client, &uri, check)).await;
            match said.unwrap_or_else(|_| bail!("no answer within {REQUEST:?}")) {
                Ok(()) => break,
                Err(error) if begun.elapsed() + PAUSE >= limit => {
                    return Err(error.context(format!("{} within {limit:?}: {uri}", asked.failed(check))));
                }
                // it may still be starting
                Err(error) => {
                    let error = format!("{error:#}");
                    if error != waited_for {
                        say(&format_args!("waiting: {}: {error}", asked.failed(check)));
                        waited_for = error;
                    }
                    sleep(PAUSE).await;
                }
            }
        }
        say(&format_args!("passed: {} (after {} s)", asked.passed(check), begun.elapsed().as_secs()));
    }
    Ok(())
}

async fn ask(client: &Client<HttpConnector, Full<Bytes>>, uri: &Uri, check: Check) -> anyhow::Result<()> {
    let request = match check {
        Check::Server | Check::Model => Request::get(uri).body(Full::default())?,
        Check::Answer => {
            let input = json!({ "name": "INPUT0", "datatype": "FP32", "shape": [NUMBERS.len()], "data": NUMBERS });
            let body = Full::from(json!({ "inputs": [input] }).to_string());
            Request::post(uri).header("content-type", "application/json").body(body)?
        }
    };
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
    if check == Check::Answer {
        let answer: Value = serde_json::from_slice(&body).with_context(|| format!("the answer is no JSON: {text}"))?;
        if answer["outputs"][0]["data"] != json!(NUMBERS) {
            bail!("the model was given {NUMBERS:?} and answered {text}");
        }
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
    async fn server(answers: Vec<(u16, String)>) -> Asked {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
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
        Asked { server, model: "echo".into() }
    }

    const RIGHT: &str = r#"{"outputs":[{"name":"OUTPUT0","datatype":"FP32","shape":[2],"data":[1.0,2.0]}]}"#;

    #[tokio::test]
    async fn a_model_that_starts_is_asked_until_it_answers_and_each_check_is_told() {
        let answers = [(503, "starts"), (200, ""), (400, "loads"), (400, "loads"), (200, ""), (200, RIGHT)];
        let asked = server(answers.map(|(status, body)| (status, body.to_owned())).to_vec()).await;
        let told = std::cell::RefCell::new(vec![]);
        let say = |line: &dyn fmt::Display| told.borrow_mut().push(line.to_string());
        until_answered(&asked, Duration::from_secs(60), say).await.unwrap();
        let told: Vec<String> = told.into_inner().iter().map(|line| line.replace(&asked.server, "S")).collect();
        let begin = [
            "waiting: the server at S is not ready: 503 Service Unavailable: starts",
            "passed: the server at S is ready (after ",
            "waiting: model 'echo' is not ready: 400 Bad Request: loads",
            "passed: model 'echo' is ready (after ",
            "passed: model 'echo' was given [1.0, 2.0] and gave it back (after ",
        ];
        assert_eq!(told.len(), begin.len(), "{told:#?}");
        assert!(told.iter().zip(begin).all(|(line, begin)| line.starts_with(begin)), "{told:#?}");
    }

    async fn fail(asked: &Asked) -> String {
        format!("{:#}", until_answered(asked, Duration::ZERO, |_| {}).await.unwrap_err())
    }

    #[tokio::test]
    async fn what_is_wrong_is_shown_when_the_time_is_over() {
        let wrong = RIGHT.replace("2.0", "3.0");
        let ready = || [(200, String::new()), (200, String::new())];
        for (status, body) in [(503, "out of order"), (200, "<html>"), (200, &wrong), (200, "{}")] {
            let asked = server(ready().into_iter().chain([(status, body.to_owned())]).collect()).await;
            let error = fail(&asked).await;
            let expect = "model 'echo' does not answer as it should within 0ns: http://127.0.0.1:";
            assert!(error.contains(body) && error.starts_with(expect), "{error}");
        }
        let error = fail(&server(vec![(503, "no model".into())]).await).await;
        assert!(
            error.starts_with("the server at http://") && error.contains("503 Service Unavailable: no model"),
            "{error}"
        );
        // nobody there, and an answer without end
        fail(&Asked { server: "http://127.0.0.1:1".into(), model: "echo".into() }).await;
        fail(&server(ready().into_iter().chain([(200, "x".repeat(ANSWER_MAX + 1))]).collect()).await).await;
    }
}
