use super::*;

fn location(url: &str) -> Location {
    Location::parse(url).unwrap()
}

#[track_caller]
fn check(url: &str, variables: &[(&str, &str)], file: Option<&str>, expect: Result<&str, &str>) {
    let variables: HashMap<String, String> = variables.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let variables = move |name: &str| variables.get(name).cloned();
    let file = file.map(|text| parse_file("/c.json", text).unwrap());
    let profiles = ProfileFiles::of(
        (
            "/h/credentials".into(),
            "[mine]\naws_access_key_id=P\naws_secret_access_key=Q\nregion=eu-1\n[sso]\nsso_session=x",
        ),
        ("/h/config".into(), ""),
    );
    let chosen = choose(&location(url), &variables, file.as_ref().map(|file| ("/c.json", file)), &profiles);
    let text = chosen.map(|Credential { of, source }| match of {
        Cloud::S3 { keys, region, endpoint } => {
            let keys = match keys {
                S3Keys::Given { key_id, secret, token } => format!("{key_id}:{secret}:{}", token.unwrap_or_default()),
                other => format!("{other:?}"),
            };
            format!("{keys} {} {} {source}", region.unwrap_or_default(), endpoint.unwrap_or_default())
        }
        Cloud::Gcs { file, endpoint } => {
            format!("{} {} {source}", file.unwrap_or_default(), endpoint.unwrap_or_default())
        }
        Cloud::Azure { account, how, .. } => {
            let key = if let AzureAccess::Key(key) = &how { key.clone() } else { format!("{how:?}") };
            format!("{} {key} {source}", account.unwrap_or_default())
        }
    });
    assert_eq!(text.as_deref().map_err(String::as_str), expect);
}

const FILE_TEXT: &str = r#"{
    "gs": {"": "/all.json", "gs://b2": "/b2.json"},
    "s3": {
        "": {"secret_key": "S", "key_id": "K", "region": "r1", "session_token": "", "profile": ""},
        "s3://b2": {"secret_key": "S2", "key_id": "K2", "region": "", "session_token": "T2", "profile": ""},
        "s3://b2/deep/": {"secret_key": "", "key_id": "", "region": "", "session_token": "", "profile": "mine"},
        "s3://http://h:1/b": {"secret_key": "S4", "key_id": "K4"}
    },
    "as": {"as://a/c": {"account_str": "a", "account_key": "AK"}, "as://m": {"auth_type": "managed_identity"}}
}"#;

#[test]
fn the_longest_entry_of_the_file_wins() {
    let file = Some(FILE_TEXT);
    check("s3://b1/x", &[], file, Ok("K:S: r1  the entry \"\" of '/c.json' (TRITON_CLOUD_CREDENTIAL_PATH)"));
    check("s3://b2/x", &[], file, Ok("K2:S2:T2   the entry \"s3://b2\" of '/c.json' (TRITON_CLOUD_CREDENTIAL_PATH)"));
    check("s3://b2/deep", &[], file, Ok("P:Q: eu-1  the profile 'mine' of '/h/credentials'"));
    check(
        "s3://http://h:1/b/p",
        &[],
        file,
        Ok("K4:S4:   the entry \"s3://http://h:1/b\" of '/c.json' (TRITON_CLOUD_CREDENTIAL_PATH)"),
    );
    check("gs://b2/x", &[], file, Ok("/b2.json  the entry \"gs://b2\" of '/c.json' (TRITON_CLOUD_CREDENTIAL_PATH)"));
    check("gs://b1", &[], file, Ok("/all.json  the entry \"\" of '/c.json' (TRITON_CLOUD_CREDENTIAL_PATH)"));
    check("as://a/c/x", &[], file, Ok("a AK the entry \"as://a/c\" of '/c.json' (TRITON_CLOUD_CREDENTIAL_PATH)"));
    check("as://m/c/x", &[], file, Ok(" ManagedIdentity the machine's managed identity"));
    let none = "Cannot match credential for path as://z/c in '/c.json' (TRITON_CLOUD_CREDENTIAL_PATH): add an entry for it or for \"\"";
    check("as://z/c", &[], file, Err(none));
}

#[test]
fn the_file_counts_alone() {
    let variables = [("AWS_ACCESS_KEY_ID", "V"), ("AWS_SECRET_ACCESS_KEY", "W")];
    check(
        "s3://b1",
        &variables,
        Some(FILE_TEXT),
        Ok("K:S: r1  the entry \"\" of '/c.json' (TRITON_CLOUD_CREDENTIAL_PATH)"),
    );
    check("s3://b1", &variables, None, Ok("V:W:   AWS_ACCESS_KEY_ID"));
}

#[test]
fn s3_variables_come_before_profiles_and_those_before_the_surroundings() {
    check(
        "s3://b",
        &[("AWS_PROFILE", "mine"), ("AWS_DEFAULT_REGION", "r")],
        None,
        Ok("P:Q: r  the profile 'mine' of '/h/credentials'"),
    );
    check(
        "s3://b",
        &[("AWS_PROFILE", "no")],
        None,
        Err("the profile 'no' is neither in '/h/credentials' nor in '/h/config'"),
    );
    check(
        "s3://b",
        &[("AWS_PROFILE", "sso")],
        None,
        Err(
            "the profile 'sso' gets its keys by sso_session, which this server does not do: give aws_access_key_id and aws_secret_access_key",
        ),
    );
    check("s3://b", &[("AWS_ACCESS_KEY_ID", "V")], None, Err("AWS_ACCESS_KEY_ID gives a key's id without its secret"));
    let identity = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn")];
    check("s3://b", &identity, None, Ok("WebIdentity   AWS_WEB_IDENTITY_TOKEN_FILE"));
    check(
        "s3://b",
        &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x")],
        None,
        Ok("Container   the container's credentials"),
    );
    check("s3://b", &[("AWS_ENDPOINT_URL", "http://e:1")], None, Ok("Machine  http://e:1 the machine's role"));
    check("s3://b", &[("AWS_EC2_METADATA_DISABLED", "true")], None, Ok("Unsigned   nowhere: requests are not signed"));
}

#[test]
fn google_and_azure_take_their_own_variables() {
    check("gs://b", &[], None, Ok("  the machine's account"));
    let variables = [("GOOGLE_APPLICATION_CREDENTIALS", "/g.json"), ("STORAGE_EMULATOR_HOST", "http://e:1")];
    check("gs://b", &variables, None, Ok("/g.json http://e:1 GOOGLE_APPLICATION_CREDENTIALS"));
    check("as://a/c", &[("AZURE_STORAGE_KEY", "k")], None, Ok(" k AZURE_STORAGE_KEY"));
    check("as://a/c", &[], None, Ok(" Unsigned nowhere: requests are not signed"));
    check("as://a/c", &[("AZURE_STORAGE_AUTH_TYPE", "default")], None, Ok(" Default Azure's default chain"));
    check(
        "as://a/c",
        &[("AZURE_STORAGE_AUTH_TYPE", "x")],
        None,
        Err("the authentication type 'x' is unknown: expected key, managed_identity or default"),
    );
}

#[test]
fn junk_in_the_file_is_named_by_its_place_and_tells_no_secret() {
    let error = parse_file("/c.json", "{\"s3\": {\"\": {\"secret_key\": 42}}}").unwrap_err();
    assert_eq!(
        error,
        "the credentials file '/c.json' (TRITON_CLOUD_CREDENTIAL_PATH) is not as the user guide describes it at line 1 column 29"
    );
    let error = parse_file("/c.json", "secret").unwrap_err();
    assert_eq!(error, "the credentials file '/c.json' (TRITON_CLOUD_CREDENTIAL_PATH) is no JSON at line 1 column 1");
}
