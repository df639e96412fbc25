//! `proxy_cache_purge`, with the syntax of nginx's commercial edition, and `proxy_cache_purge_tags`.
//!
//! A purge request is one for which a value of `proxy_cache_purge` is neither empty nor `0`, whatever
//! its method; who may send one is the access rules' matter. It is answered with 204 once nobody gets
//! what was purged any more; 404 where there was nothing under the key. A wildcard or tags that
//! nothing has are purged all the same: 204.

use super::predicate;
use crate::cache::key::HEAD;
use crate::cache::purge::{Kind, Refused, What, tags};
use crate::http::phases::Flow;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::observe::error_log::Level;
use crate::observe::{request_error, request_log};
use crate::upstream::Failure;
use bytes::Bytes;

/// The most tags of one purge request.
const MOST_TAGS: usize = 256;

/// Whether a request purges: its location has a cache, and a value of `proxy_cache_purge` holds.
pub fn wants(rq: &Request) -> bool {
    let conf = &rq.loc().proxy_cache;
    !conf.purge.is_empty() && super::has_zone(rq) && predicate::any(&conf.purge, rq)
}

/// Carries out the purge that a request [`wants`]; the proxy knows its target by now.
pub async fn answer(rq: &mut Request) -> Result<Flow, Failure> {
    let (active, zone) = super::place(rq)?;
    let what = match tagged(rq) {
        Ok(Some(what)) => what,
        Ok(None) => {
            let text = super::key(&active, rq).text;
            What::from_key(text.strip_suffix(HEAD).map_or(text.clone(), |main| text.slice(..main.len())))
        }
        Err(why) => {
            request_log(rq, Level::Info, format_args!("client sent an invalid purge request: {why}"));
            return Ok(Flow::status(400));
        }
    };
    let name = zone.spec.name.clone();
    let kind = what.kind();
    let texts: Vec<_> = what.texts().iter().map(|text| text.escape_ascii().to_string()).collect();
    match zone.purge(what).await {
        Ok(removed) => {
            let (kind_name, texts) = (kind.as_str(), texts.join(", "));
            let level = if kind == Kind::Key { Level::Info } else { Level::Notice };
            let message = format_args!(
                "cache \"{name}\": {removed} entries purged from memory and disk by {kind_name} \"{texts}\""
            );
            request_log(rq, level, message);
            Ok(match kind == Kind::Key && removed == 0 {
                true => Flow::status(404),
                false => Flow::respond(Response::new(204)),
            })
        }
        Err(Refused::TooMany) => {
            request_error(rq, format_args!("cache \"{name}\": too many purges are not worked off yet"));
            let mut response = Response::new(503);
            response.fields.add_static("Retry-After", "1");
            Ok(Flow::special(response))
        }
        Err(Refused::Interrupted) => Ok(Flow::status(503)),
    }
}

/// What the values of `proxy_cache_purge_tags` name; `None` when all are empty.
fn tagged(rq: &Request) -> Result<Option<What>, &'static str> {
    let values: Vec<Bytes> = rq.loc().proxy_cache.purge_tags.iter().map(|value| value.eval(rq)).collect();
    if values.iter().all(|value| value.is_empty()) {
        return Ok(None);
    }
    let tags: Box<[Bytes]> =
        values.iter().flat_map(|value| tags::split(value)).map(Bytes::copy_from_slice).collect();
    match tags.len() {
        // To purge by key instead is not what was asked for.
        0 => Err("no tag"),
        n if n > MOST_TAGS => Err("too many tags"),
        _ if tags.iter().any(|tag| tag.len() > tags::LONGEST) => Err("too long a tag"),
        _ => Ok(Some(What::Tags(tags))),
    }
}
