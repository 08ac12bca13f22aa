//! Makes clients from a location and credentials.

use std::{fmt, fs, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig,
    aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder,
    client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector},
    gcp::GoogleCloudStorageBuilder,
};

use crate::{
    aws_profile::ProfileFiles,
    client::{Client, Headers},
    credentials::{self, AzureAccess, Cloud, Credential, S3Keys, Variables},
    error::{RepositoryError, Tried, detail},
    limits::Limits,
    location::{Location, Store},
};

/// Makes a client with the credentials as they are now: files are read again, for they may have been mended.
///
/// Errors: the credentials are missing or cannot be used.
pub(crate) async fn connect(
    location: &Location,
    variables: &Variables,
    limits: &Limits,
    transport: &Transport,
) -> Result<Client, RepositoryError> {
    let client = location.client_failed();
    let refused = |reason| RepositoryError::Credentials { client, url: location.to_string(), reason };
    let credential = read_credential(location, variables).map_err(refused)?;
    let options = client_options(variables, limits, location).map_err(refused)?;
    let maker = Maker { location, limits, options, transport };
    let source = credential.source.clone();
    let failed = |error: object_store::Error| {
        refused(format!("the credentials from {source} cannot be used: {}", detail(&error)))
    };
    match credential.of.clone() {
        Cloud::S3 { keys, region, endpoint } => maker.s3(keys, region, endpoint, credential).await.map_err(failed),
        Cloud::Gcs { file, endpoint } => maker.gcs(file, endpoint, credential).await.map_err(failed),
        Cloud::Azure { account, how, endpoint } => maker.azure(account, how, endpoint, credential).map_err(failed),
    }
}

fn read_credential(location: &Location, variables: &Variables) -> Result<Credential, String> {
    let file = match variables(credentials::FILE) {
        None => None,
        Some(path) => {
            let text = fs::read_to_string(&path);
            let text = text.map_err(|error| {
                format!("failed to open text file for read {path}: {error} ({})", credentials::FILE)
            })?;
            Some((credentials::parse_file(&path, &text)?, path))
        }
    };
    let home = variables("HOME").unwrap_or_default();
    let aws = |variable: &str, name: &str| variables(variable).unwrap_or_else(|| format!("{home}/.aws/{name}"));
    let (keys, config) = (aws("AWS_SHARED_CREDENTIALS_FILE", "credentials"), aws("AWS_CONFIG_FILE", "config"));
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (keys_text, config_text) = (read(&keys), read(&config));
    let profiles = ProfileFiles::of((keys, &keys_text), (config, &config_text));
    credentials::choose(location, variables, file.as_ref().map(|(file, path)| (path.as_str(), file)), &profiles)
}

/// No limit on a whole request: a large file may take long, as long as something comes.
fn client_options(variables: &Variables, limits: &Limits, location: &Location) -> Result<ClientOptions, String> {
    let mut options = ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(limits.connect)
        .with_read_timeout(limits.silence)
        .with_allow_http(true);
    if let (Store::S3 { .. }, Some(path)) = (&location.store, variables("AWS_CA_BUNDLE")) {
        let unusable =
            |reason: String| format!("the certificates of '{path}' (AWS_CA_BUNDLE) cannot be used: {reason}");
        let pem = fs::read(&path).map_err(|error| unusable(error.to_string()))?;
        for certificate in Certificate::from_pem_bundle(&pem).map_err(|error| unusable(detail(&error)))? {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

struct Maker<'a> {
    location: &'a Location,
    limits: &'a Limits,
    options: ClientOptions,
    transport: &'a Transport,
}

/// How stores are reached.
#[derive(Debug, Clone)]
pub struct Transport {
    /// Makes what sends requests.
    pub connector: Arc<dyn HttpConnector>,
    /// Buckets of S3 are part of the host's name, not of the path.
    pub bucket_in_host: bool,
}

impl Default for Transport {
    fn default() -> Self {
        Self { connector: Arc::new(ReqwestConnector::default()), bucket_in_host: false }
    }
}

impl Maker<'_> {
    async fn s3(
        self,
        keys: S3Keys,
        region: Option<String>,
        endpoint: Option<String>,
        credential: Credential,
    ) -> object_store::Result<Client> {
        let Store::S3 { endpoint: of_url, bucket } = &self.location.store else { unreachable!("chosen for S3") };
        let region = region.unwrap_or_else(|| "us-east-1".into());
        let endpoint = of_url.clone().or(endpoint);
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&region)
            .with_retry(self.retry())
            .with_client_options(self.options.clone())
            .with_http_connector(self.connector());
        if self.transport.bucket_in_host {
            builder = builder.with_virtual_hosted_style_request(true);
        }
        if let Some(endpoint) = &endpoint {
            builder = builder.with_endpoint(match (self.transport.bucket_in_host, endpoint.split_once("://")) {
                (true, Some((scheme, host))) => format!("{scheme}://{bucket}.{host}"),
                _ => endpoint.clone(),
            });
        }
        builder = match keys.clone() {
            S3Keys::Given { key_id, secret, token } => {
                let builder = builder.with_access_key_id(key_id).with_secret_access_key(secret);
                if let Some(token) = token { builder.with_token(token) } else { builder }
            }
            S3Keys::WebIdentity { token_file, role, session, sts_endpoint } => {
                let settings = [
                    ("aws_web_identity_token_file", Some(token_file)),
                    ("aws_role_arn", Some(role)),
                    ("aws_role_session_name", session),
                    ("aws_endpoint_url_sts", sts_endpoint),
                ];
                configured(builder, settings)?
            }
            S3Keys::Container { relative, full, token_file } => {
                let settings = [
                    ("aws_container_credentials_relative_uri", relative),
                    ("aws_container_credentials_full_uri", full),
                    ("aws_container_authorization_token_file", token_file),
                ];
                configured(builder, settings)?
            }
            S3Keys::Machine => builder.with_imdsv1_fallback(),
            S3Keys::Unsigned => builder.with_skip_signature(true),
        };
        let mut store = builder.clone().build()?;
        let mut source = credential.source;
        if keys == S3Keys::Machine && !self.answers(store.credentials().get_credential()).await {
            source = "nowhere: requests are not signed".into();
            store = builder.with_skip_signature(true).build()?;
        }
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        Ok(client(store, Tried { endpoint, region: Some(region), credentials: source }))
    }

    async fn gcs(
        self,
        file: Option<String>,
        endpoint: Option<String>,
        credential: Credential,
    ) -> object_store::Result<Client> {
        let Store::Gcs { bucket } = &self.location.store else { unreachable!("chosen for Google") };
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(bucket)
            .with_retry(self.retry())
            .with_client_options(self.options.clone())
            .with_http_connector(self.connector());
        if let Some(endpoint) = &endpoint {
            let endpoint = if endpoint.contains("://") { endpoint.clone() } else { format!("http://{endpoint}") };
            builder = builder.with_base_url(&endpoint);
        }
        let mut source = credential.source;
        let is_machine = file.is_none();
        if let Some(file) = file {
            builder = builder.with_application_credentials(file);
        } else if endpoint.is_some() {
            builder = builder.with_skip_signature(true); // it stands in for Google, and asks for none
            source = "nowhere: requests are not signed".into();
        }
        let mut store = builder.clone().build()?;
        if is_machine && endpoint.is_none() && !self.answers(store.credentials().get_credential()).await {
            source = "nowhere: requests are not signed".into();
            store = builder.with_skip_signature(true).build()?;
        }
        let endpoint = endpoint.unwrap_or_else(|| "https://storage.googleapis.com".into());
        Ok(client(store, Tried { endpoint, region: None, credentials: source }))
    }

    fn azure(
        self,
        account: Option<String>,
        how: AzureAccess,
        endpoint: Option<String>,
        credential: Credential,
    ) -> object_store::Result<Client> {
        let Store::Azure { account: of_url, container } = &self.location.store else {
            unreachable!("chosen for Azure")
        };
        let account = account.unwrap_or_else(|| of_url.clone());
        // The default chain reads the variables of Azure's own tools; the others take none of them.
        let builder = match how {
            AzureAccess::Default => MicrosoftAzureBuilder::from_env(),
            _ => MicrosoftAzureBuilder::new(),
        };
        let mut builder = builder
            .with_account(&account)
            .with_container_name(container)
            .with_retry(self.retry())
            .with_client_options(self.options.clone())
            .with_http_connector(self.connector());
        if let Some(endpoint) = &endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        builder = match how {
            AzureAccess::Key(key) => builder.with_access_key(key),
            AzureAccess::ManagedIdentity(id) => {
                let builder = builder.with_credential_type("managed_identity");
                if let Some(id) = id { builder.with_client_id(id) } else { builder }
            }
            AzureAccess::Default => builder,
            AzureAccess::Unsigned => builder.with_skip_signature(true),
        };
        let endpoint = endpoint.unwrap_or_else(|| format!("https://{account}.blob.core.windows.net"));
        Ok(client(builder.build()?, Tried { endpoint, region: None, credentials: credential.source }))
    }

    /// Whether the machine gives credentials, which none does that is in no cloud.
    async fn answers<T>(&self, question: impl Future<Output = object_store::Result<T>>) -> bool {
        tokio::time::timeout(self.limits.machine, question).await.is_ok_and(|answer| answer.is_ok())
    }

    fn connector(&self) -> Connector {
        Connector(Arc::clone(&self.transport.connector))
    }

    fn retry(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                base: 2.0,
            },
            max_retries: 3,
            retry_timeout: self.limits.answer,
        }
    }
}

fn client(store: impl ObjectStore, tried: Tried) -> Client {
    Client { store: Arc::new(store), tried }
}

fn configured<const N: usize>(
    builder: AmazonS3Builder,
    settings: [(&str, Option<String>); N],
) -> object_store::Result<AmazonS3Builder> {
    settings
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .try_fold(builder, |builder, (key, value)| Ok(builder.with_config(key.parse()?, value)))
}

/// Makes clients that keep the headers of answers.
#[derive(Debug)]
struct Connector(Arc<dyn HttpConnector>);

struct KeepsHeaders(HttpClient);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(KeepsHeaders(self.0.connect(options)?)))
    }
}

impl fmt::Debug for KeepsHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeepsHeaders")
    }
}

#[async_trait::async_trait]
impl HttpService for KeepsHeaders {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let mut response = self.0.execute(request).await?;
        let headers = Headers(response.headers().clone());
        response.extensions_mut().insert(headers);
        Ok(response)
    }
}
