//! Going to the background (`daemon on`), before there is any other thread.
#![allow(unsafe_code)]

use std::io;

/// Forks, leaves the terminal's session, and sends the standard streams to /dev/null. Returns in the
/// child only; the parent ends with 0.
pub fn detach() -> io::Result<()> {
    // SAFETY: called by `main` before any thread is started, so the child has every thread the
    // parent had, and no lock can be held by a thread that is gone.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { .. } => std::process::exit(0),
        nix::unistd::ForkResult::Child => {}
    }
    nix::unistd::setsid()?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}

/// Sends the standard error to `file`, or nowhere: a process in the background has no terminal.
pub fn leave_stderr(file: Option<&std::path::Path>) -> io::Result<()> {
    let path = file.unwrap_or(std::path::Path::new("/dev/null"));
    let file = std::fs::OpenOptions::new().append(true).open(path)?;
    rustix::stdio::dup2_stderr(&file)?;
    Ok(())
}
