//! Errors of the admin API: a status that fits and one line of text.

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use nexum_admin_api::ErrorBody;
use nexum_host_ifaces::{HostError, HostErrorKind, port::PortError, secrets, store::StoreError};
use nexum_kernel::admin::AdminError;

/// An answer that is not what was asked for.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.message })).into_response()
    }
}

impl From<PortError> for ApiError {
    fn from(error: PortError) -> Self {
        let status = match error {
            PortError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            PortError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
        };
        Self::new(status, error.to_string())
    }
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        let status = match &error {
            AdminError::UnknownModule(_) | AdminError::UnknownService(_) | AdminError::UnknownDeadLetter { .. } => {
                StatusCode::NOT_FOUND
            }
            AdminError::UnknownEffect { .. } | AdminError::NoQueries(_) => StatusCode::NOT_FOUND,
            AdminError::AlreadyLoaded(_)
            | AdminError::WrongState { .. }
            | AdminError::NeedsApproval { .. }
            | AdminError::RestartNeedsApproval { .. } => StatusCode::CONFLICT,
            AdminError::Load(_)
            | AdminError::Refused(_)
            | AdminError::FailedAgain(_)
            | AdminError::NotUpgraded { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            AdminError::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            AdminError::NoAnswer { .. } => StatusCode::BAD_GATEWAY,
            AdminError::LateAnswer { .. } => StatusCode::GATEWAY_TIMEOUT,
            AdminError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::UnknownModule(_)
            | StoreError::UnknownDeadLetter { .. }
            | StoreError::UnknownUnit { .. }
            | StoreError::UnknownRecording(_)
            | StoreError::UnknownEffect { .. } => StatusCode::NOT_FOUND,
            StoreError::BelowJournal { .. } | StoreError::Refused(_) => StatusCode::CONFLICT,
            StoreError::Failed(_) | StoreError::DiskFull(_) | StoreError::OutOfSequence { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, error.to_string())
    }
}

impl From<HostError> for ApiError {
    fn from(error: HostError) -> Self {
        let status = match error.kind {
            HostErrorKind::Unsupported => StatusCode::NOT_FOUND,
            HostErrorKind::InvalidInput | HostErrorKind::Denied => StatusCode::UNPROCESSABLE_ENTITY,
            HostErrorKind::Unavailable | HostErrorKind::RateLimited => StatusCode::SERVICE_UNAVAILABLE,
            HostErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            HostErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.message)
    }
}

macro_rules! from_rejection {
    ($($rejection:ty),*) => {
        $(impl From<$rejection> for ApiError {
            fn from(rejection: $rejection) -> Self {
                // Of a body's values some may be secret, such as those of a module's configuration.
                Self::new(rejection.status(), secrets::without_value(&rejection.body_text()))
            }
        })*
    };
}

from_rejection!(JsonRejection, PathRejection, QueryRejection);
