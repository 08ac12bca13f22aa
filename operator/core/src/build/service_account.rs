//! The identity of the pods. It is allowed nothing and its token is mounted nowhere.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::parts::metadata;
use crate::validated::Validated;

/// None if the user names an account.
pub(super) fn build(server: &Validated<'_>) -> Option<ServiceAccount> {
    server.server.spec.service_account_name.is_none().then(|| ServiceAccount {
        metadata: metadata(server, server.name),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    })
}
