//! Who may be a client: each side proves that it knows the key, by a digest of what the other one has made up.
//!
//! The steps are those of `connection.deliver_challenge` and `answer_challenge`, for a server that waits for nobody: each message is answered when it comes.
//! Nothing of a stranger takes more memory than [`LONGEST`] bytes, and there is an end to how long it may take. Which digests there are is written down
//! in `connection.py`; OpenSSL's are used.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// No message of an authentication is longer, in bytes.
pub(super) const LONGEST: u64 = 256;

const CHALLENGE: &[u8] = b"#CHALLENGE#";
const WELCOME: &[u8] = b"#WELCOME#";
const FAILURE: &[u8] = b"#FAILURE#";
/// The digest that is asked for; a client of before Python 3.12 answers with MD5 all the same.
const DIGEST: &[u8] = b"{sha256}";
/// How many bytes are made up, and how few a client may.
const RANDOM: usize = 40;
const SHORTEST: usize = 20;

/// What is expected next.
pub(super) enum Step {
    /// The proof of the client, of this challenge.
    Proof(Vec<u8>),
    Challenge,
    Welcome,
}

/// What a message of a stranger leads to: what to answer, and how it goes on.
pub(super) enum Next {
    Answer(Vec<u8>, Step),
    Admitted,
    /// After this answer.
    Refused(Vec<u8>),
}

/// The first message to a stranger.
pub(super) fn begin(py: Python<'_>) -> PyResult<(Vec<u8>, Step)> {
    let random = py.import("os")?.call_method1("urandom", (RANDOM,))?.cast_into::<PyBytes>()?;
    let challenge = [DIGEST, random.as_bytes()].concat();
    Ok(([CHALLENGE, &challenge].concat(), Step::Proof(challenge)))
}

impl Step {
    pub(super) fn go_on(self, message: &[u8], key: &Bound<'_, PyBytes>) -> PyResult<Next> {
        let py = key.py();
        let connection = py.import("broody.connection")?;
        match self {
            Step::Proof(challenge) => {
                let challenge = PyBytes::new(py, &challenge);
                let proof = PyBytes::new(py, message);
                Ok(match connection.call_method1("_verify_challenge", (key, challenge, proof)) {
                    Ok(_) => Next::Answer(WELCOME.to_vec(), Step::Challenge),
                    Err(_) => Next::Refused(FAILURE.to_vec()),
                })
            }
            Step::Challenge => {
                let challenge = message
                    .strip_prefix(CHALLENGE)
                    .filter(|challenge| challenge.len() >= SHORTEST)
                    .ok_or_else(|| PyValueError::new_err("a challenge was expected"))?;
                let challenge = PyBytes::new(py, challenge);
                let proof = connection.call_method1("_create_response", (key, challenge))?;
                Ok(Next::Answer(proof.cast::<PyBytes>()?.as_bytes().to_vec(), Step::Welcome))
            }
            Step::Welcome if message == WELCOME => Ok(Next::Admitted),
            Step::Welcome => Ok(Next::Refused(Vec::new())),
        }
    }
}
