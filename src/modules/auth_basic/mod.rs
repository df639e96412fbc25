//! nginx's auth_basic module: users and passwords in a file.

mod password;
mod user_file;

use crate::cache::file_io::Failure;
use crate::conf::values::os_error;
use crate::conf::{Builder, Command, ConfResult, Directive};
use crate::http::base64;
use crate::http::phases::{Call, Deciding, Flow, Handler, Phase};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::template::Template;
use crate::observe::error_log::Level;
use crate::observe::{request_error, request_log};
use crate::settings;
use bytes::Bytes;
use password::Checked;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

settings! {
    /// What a level configures.
    pub struct Conf {
        /// `auth_basic`: the realm; `off` is none.
        inherit realm: Option<Template> = None,
        /// `auth_basic_user_file`
        inherit user_file: Option<UserFile> = None,
    }
}

/// Where the users are.
#[derive(Clone, Debug)]
pub struct UserFile {
    path: Template,
    /// The directory of the configuration, to which a relative path is joined; with its slash.
    directory: Arc<[u8]>,
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works(
        "auth_basic",
        |b, d| {
            let realm = b.template(d.arg(0))?;
            b.loc().auth_basic.realm.set(Some(realm))
        },
        "asks for a user and a password in this realm",
    ),
    Command::works("auth_basic_user_file", user_file, "the users and their passwords"),
];

/// Runs in its phase.
pub const HANDLER: Handler = Handler {
    phase: Phase::Access,
    wants: |loc| {
        let conf = &loc.auth_basic;
        // Only a realm with variables has to be looked at to know that it is none.
        conf.realm.as_ref().is_some_and(|realm| realm.source != OFF) && conf.user_file.is_some()
    },
    call: Call::Later(handle),
    pure: false,
    gate: None,
};

const OFF: &str = "off";

fn user_file(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let mut directory = b.conf_dir.as_os_str().as_bytes().to_vec();
    if directory.last() != Some(&b'/') {
        directory.push(b'/');
    }
    let path = b.template(d.arg(0))?;
    b.loc().auth_basic.user_file.set(Some(UserFile { path, directory: directory.into() }))
}

impl UserFile {
    fn path(&self, rq: &Request) -> Vec<u8> {
        let path = self.path.eval(rq);
        if path.starts_with(b"/") { path.into() } else { [&self.directory[..], &path].concat() }
    }
}

/// What a client says who it is.
pub struct Credentials {
    text: Vec<u8>,
    colon: usize,
}

impl Credentials {
    /// The user; never empty.
    pub fn user(&self) -> &[u8] {
        &self.text[..self.colon]
    }

    /// The password. As nginx's, it ends at a zero byte.
    fn password(&self) -> &[u8] {
        let password = &self.text[self.colon + 1..];
        &password[..memchr::memchr(0, password).unwrap_or(password.len())]
    }
}

/// The user and the password that a request brings; `None` when it brings none, or a user without a
/// name (ngx_http_auth_basic_user).
pub fn credentials(rq: &Request) -> Option<Credentials> {
    let value = rq.head.get("authorization")?;
    let (scheme, encoded) = value.split_at_checked(b"basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let text = base64::decode(encoded.trim_ascii_start())?;
    let colon = memchr::memchr(b':', &text).filter(|colon| *colon > 0)?;
    Some(Credentials { text, colon })
}

fn handle(rq: &mut Request) -> Deciding<'_> {
    Box::pin(authenticate(rq))
}

async fn authenticate(rq: &mut Request) -> Flow {
    let conf = &rq.loc().auth_basic;
    let (Some(realm), Some(file)) = (&*conf.realm, &*conf.user_file) else { return Flow::Continue };
    let realm = realm.eval(rq);
    if realm == OFF {
        return Flow::Continue;
    }
    let Some(credentials) = credentials(rq) else {
        let what = format_args!("no user/password was provided for basic authentication");
        request_log(rq, Level::Info, what);
        return challenge(&realm);
    };
    let path = file.path(rq);
    let hash = match user_file::find(&path, credentials.user()).await {
        Ok(hash) => hash,
        Err(failure) => return unreadable(rq, &path, &failure),
    };
    let user = String::from_utf8_lossy(credentials.user()).into_owned();
    let Some(hash) = hash else {
        let path = String::from_utf8_lossy(&path);
        request_error(rq, format_args!("user \"{user}\" was not found in \"{path}\""));
        return challenge(&realm);
    };
    let checked = password::check(hash, credentials.password(), rq.downstream.gone()).await;
    let Some(checked) = checked else { return Flow::status(499) };
    match checked {
        Checked::Right => return Flow::Allow,
        Checked::Wrong => request_error(rq, format_args!("user \"{user}\": password mismatch")),
        Checked::UnknownKind => request_error(
            rq,
            format_args!("user \"{user}\": password mismatch (this kind of hash is not supported)"),
        ),
    }
    challenge(&realm)
}

fn challenge(realm: &Bytes) -> Flow {
    let mut response = Response::new(401);
    let value = [b"Basic realm=\"", &realm[..], b"\""].concat();
    response.fields.add_static("WWW-Authenticate", value);
    Flow::special(response)
}

/// The answer where the file cannot be read: a client cannot do anything about it, but one that is
/// not there lets nobody in.
fn unreadable(rq: &Request, path: &[u8], failure: &Failure) -> Flow {
    let missing = failure.errno == rustix::io::Errno::NOENT.raw_os_error();
    let (level, status) = if missing { (Level::Error, 403) } else { (Level::Crit, 500) };
    let (path, error) = (String::from_utf8_lossy(path), os_error(&failure.error()));
    request_log(rq, level, format_args!("{} \"{path}\" failed ({error})", failure.call));
    Flow::status(status)
}

#[cfg(test)]
mod tests {
    use crate::observe::testing::Running;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};

    #[test]
    fn a_client_that_sends_nothing_more_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let users = dir.path().join("users");
        let hash = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";
        std::fs::write(&users, format!("u:{hash}\n")).unwrap();
        let running = Running::start(&format!(
            "server {{ listen LISTEN; auth_basic x; auth_basic_user_file {}; }}",
            users.display()
        ));
        let mut stream = TcpStream::connect(running.addr).unwrap();
        // u:wrong
        stream.write_all(b"GET /f HTTP/1.0\r\nAuthorization: Basic dTp3cm9uZw==\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
}
