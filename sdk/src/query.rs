//! Queries: what an operator asks a module about its state, by `nexumctl query` or the admin API.
//!
//! A query is answered by an instance of its own, after `init`, over the state as it was committed at one moment. It
//! changes nothing: writes, the outbox, `http` and signatures are refused with [`ErrorKind::Denied`].

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Context, Error, ErrorKind, Result};

/// What is asked: a name, and JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    method: String,
    params: String,
}

impl Query {
    /// A query as the host would hand it on. For tests.
    ///
    /// # Errors
    /// `params` cannot be written as JSON.
    pub fn new(method: impl Into<String>, params: impl Serialize) -> Result<Self> {
        Ok(Self { method: method.into(), params: serde_json::to_string(&params)? })
    }

    pub(crate) fn from_host(method: String, params: String) -> Self {
        Self { method, params }
    }

    /// The name of what is asked; of the module's own making.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// What it takes; `null` when nothing was given.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`]: it is not of this type.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T> {
        let read = serde_json::from_str(&self.params).map_err(|error| Error::invalid_input(error.to_string()));
        read.context(format!("params of `{}`", self.method))
    }

    /// What a method is answered that the module does not know.
    pub fn unknown(&self) -> Error {
        Error::new(ErrorKind::Unsupported, format!("there is no query `{}`", self.method))
    }
}

/// What a query may be answered: anything that is written as JSON, or an error.
#[diagnostic::on_unimplemented(
    message = "a query answers `nexum_sdk::Result<T>` with a `T` that serialises, not `{Self}`",
    label = "this is not what a query answers"
)]
pub trait Answer {
    fn into_answer(self) -> Result<String>;
}

impl<T: Serialize, E: Into<Error>> Answer for Result<T, E> {
    fn into_answer(self) -> Result<String> {
        Ok(serde_json::to_string(&self.map_err(Into::into)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn params_are_read_and_answers_written_as_json() {
        let query = Query::new("balance", ["a"]).unwrap();
        assert_eq!((query.method(), query.params::<Vec<String>>().unwrap()), ("balance", vec!["a".to_owned()]));
        let wrong = query.params::<u64>().unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::InvalidInput);
        assert!(wrong.to_string().starts_with("params of `balance`: "), "{wrong}");
        assert_eq!(query.unknown().kind(), ErrorKind::Unsupported);
        assert_eq!(Ok::<_, Error>([1, 2]).into_answer().unwrap(), "[1,2]");
        assert!(Err::<(), _>(query.unknown()).into_answer().is_err());
    }
}
