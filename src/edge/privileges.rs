//! Worker threads run as `user`, the control thread keeps its rights.
//!
//! On Linux credentials belong to threads; the C library's wrappers change all threads of a process,
//! the system calls themselves only the calling one. A worker calls these before it does anything
//! else, and the threads it starts later (for blocking file work) inherit its credentials.
#![allow(unsafe_code)]

use std::io;

/// The user and group that worker threads take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group; it is the only one the thread is left with.
    pub gid: u32,
}

impl Identity {
    /// The identity of a user, and of a group if one is named. `None` when there is no such user or
    /// group, or when this process may not change its identity, which nginx ignores too.
    pub fn of(user: &str, group: Option<&str>) -> Option<Identity> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let user = nix::unistd::User::from_name(user).ok()??;
        let gid = match group {
            Some(name) => nix::unistd::Group::from_name(name).ok()??.gid,
            // nginx takes the group of the user's name; where there is none, the user's own will do.
            None => nix::unistd::Group::from_name(&user.name).ok().flatten().map_or(user.gid, |g| g.gid),
        };
        Some(Identity { uid: user.uid.as_raw(), gid: gid.as_raw() })
    }

    /// Gives the calling thread this identity, for ever.
    pub fn assume(self) -> io::Result<()> {
        let groups = [self.gid];
        // SAFETY: setgroups reads `1` group from a live array; the other two calls take numbers only.
        // All three change the credentials of the calling thread alone, which is what is wanted.
        unsafe {
            check(libc::syscall(libc::SYS_setgroups, 1usize, groups.as_ptr()))?;
            check(libc::syscall(libc::SYS_setresgid, self.gid, self.gid, self.gid))?;
            check(libc::syscall(libc::SYS_setresuid, self.uid, self.uid, self.uid))
        }
    }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
