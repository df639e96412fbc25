//! The names of a group (`server NAME resolve`): looked up again whenever their addresses may have changed.

use super::conf::NameConf;
use super::group::Group;
use super::resolve::{Answer, Failed};
use crate::observe::error_log::{Level, log};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Addresses of a name that are used; an answer may have thousands.
const ADDRESSES: usize = 1024;
/// The least time between two look-ups, whatever an answer says.
const LEAST: Duration = Duration::from_secs(1);
/// After how long a look-up that failed is tried again, as by nginx, unless `valid=` says otherwise.
const AGAIN: Duration = Duration::from_secs(10);

/// The tasks that keep names resolved, for groups that are in force. They end with it.
#[derive(Default)]
pub struct Keeper {
    groups: Vec<(Arc<Group>, Vec<JoinHandle<()>>)>,
}

impl Keeper {
    /// Says which groups are in force: the names of others are looked up no more.
    pub fn keep(&mut self, groups: &[Arc<Group>]) {
        self.groups.retain(|(old, tasks)| {
            let stays = groups.iter().any(|group| Arc::ptr_eq(group, old));
            if !stays {
                tasks.iter().for_each(JoinHandle::abort);
            }
            stays
        });
        for group in groups.iter().filter(|group| !group.conf.names.is_empty()) {
            if !self.groups.iter().any(|(known, _)| Arc::ptr_eq(group, known)) {
                let names = 0..group.conf.names.len();
                let tasks = names.map(|name| tokio::spawn(follow(Arc::downgrade(group), name, ask)));
                self.groups.push((group.clone(), tasks.collect()));
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.keep(&[]);
    }
}

async fn ask(conf: NameConf) -> Result<Answer, Failed> {
    // The configuration was not accepted without one.
    let Some(resolver) = &conf.resolver else { return Err(Failed::Refused) };
    match &conf.service {
        Some(service) => resolver.service(service, conf.timeout).await,
        None => resolver.addresses(&conf.host, conf.timeout).await,
    }
}

/// Follows a name for as long as its group lives.
async fn follow<A, F>(group: Weak<Group>, name: usize, ask: A)
where
    A: Fn(NameConf) -> F,
    F: Future<Output = Result<Answer, Failed>>,
{
    loop {
        let Some(conf) = group.upgrade().and_then(|group| group.conf.names.get(name).cloned()) else {
            return;
        };
        let answer = ask(conf.clone()).await;
        let Some(group) = group.upgrade() else { return };
        let pause = apply(&group, name, &conf, answer);
        drop(group);
        tokio::time::sleep(pause).await;
    }
}

/// Uses an answer; says when to ask again.
fn apply(group: &Group, name: usize, conf: &NameConf, answer: Result<Answer, Failed>) -> Duration {
    match answer {
        Ok(mut answer) => {
            if answer.found.len() > ADDRESSES {
                let (host, count) = (&conf.host, answer.found.len());
                log(Level::Warn, format_args!("{host} has {count} addresses, {ADDRESSES} of which are used"));
                answer.found.truncate(ADDRESSES);
            }
            if group.update(name, &answer.found) {
                log(
                    Level::Notice,
                    format_args!("{} of upstream \"{}\" has new addresses", conf.host, group.conf.name),
                );
            }
            answer.ttl.max(LEAST)
        }
        Err(why) => {
            let host = &conf.host;
            match &conf.service {
                Some(service) => {
                    log(Level::Error, format_args!("service \"{service}\" could not be resolved ({why})"))
                }
                None => log(Level::Error, format_args!("{host} could not be resolved ({why})")),
            }
            // That there is no such name is an answer too: what had its addresses may be anything now. Without
            // an answer they are the best that is known.
            if why == Failed::NotFound {
                group.update(name, &[]);
            }
            let valid = conf.resolver.as_ref().and_then(|resolver| resolver.valid);
            valid.unwrap_or(AGAIN).min(conf.timeout).max(LEAST)
        }
    }
}

#[cfg(test)]
mod tests;
