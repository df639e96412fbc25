//! What is kept in files for a while: `proxy_max_temp_file_size`, `proxy_temp_file_write_size`, and how
//! they have to fit the sizes of the proxy's buffers.
//!
//! An answer that is more than memory may hold and that may be stored goes to a file of its zone and
//! becomes the entry. One that is too large to be stored goes to a file without a name below
//! `proxy_temp_path`, up to `proxy_max_temp_file_size`; beyond that its readers wait for the slowest
//! of them. What passes without a cache is not stored: its upstream is read as its client reads.

use crate::cache::policy::Temporary;
use crate::conf::build::LevelKind;
use crate::conf::diag::At;
use crate::conf::values::size_arg;
use crate::conf::{Builder, ConfError, ConfResult, Directive};
use crate::modules::proxy;

/// A size, and where it was given.
pub type Size = Option<(u64, At)>;

/// Bytes of a temporary file where the configuration does not say it.
const MOST: u64 = 1 << 30;

/// `proxy_max_temp_file_size size`
pub fn max_temp_file_size(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let size = size_arg(d, 0)?;
    b.loc().proxy_cache.max_temp_file_size.set(Some((size, d.at.clone())))
}

/// `proxy_temp_file_write_size size`
pub fn temp_file_write_size(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let size = size_arg(d, 0)?;
    b.loc().proxy_cache.temp_file_write_size.set(Some((size, d.at.clone())))
}

/// What a level's fills do with what memory may not hold.
pub fn settings(conf: &super::Conf, proxy: &proxy::Conf) -> Temporary {
    let bytes = |size: &Size| size.as_ref().map(|(bytes, _)| *bytes);
    Temporary {
        path: (*proxy.temp_path).clone(),
        most: bytes(&conf.max_temp_file_size).unwrap_or(MOST),
        at_once: bytes(&conf.temp_file_write_size).unwrap_or_else(|| largest_buffer(proxy).saturating_mul(2)),
    }
}

/// The larger of the buffer of an answer's head and one of those of its body.
fn largest_buffer(proxy: &proxy::Conf) -> u64 {
    (*proxy.buffer_size).max(proxy.buffer.1)
}

/// Checks the sizes against each other (ngx_http_proxy_merge_loc_conf).
pub fn finish(b: &mut Builder) -> ConfResult<()> {
    for level in b.levels.iter().filter(|level| level.kind != LevelKind::Http) {
        check(&level.conf.proxy, &level.conf.proxy_cache).map_err(|(at, message)| {
            let hint = "a buffer is one of proxy_buffers or proxy_buffer_size; where proxy_busy_buffers_size and \
                        proxy_temp_file_write_size are not given they are twice the largest";
            ConfError::new(message).at(&at.unwrap_or_else(|| level.at.clone())).hint(hint)
        })?;
    }
    Ok(())
}

fn check(proxy: &proxy::Conf, cache: &super::Conf) -> Result<(), (Option<At>, String)> {
    const LARGEST: &str = "equal to or greater than the maximum of the value of \"proxy_buffer_size\" and one of the \"proxy_buffers\"";
    let largest = largest_buffer(proxy);
    let given = |size: &Size| match size {
        Some((bytes, at)) => (*bytes, Some(at.clone())),
        None => (largest.saturating_mul(2), None),
    };
    let (busy, at) = given(&proxy.busy_buffers_size);
    if busy < largest {
        return Err((at, format!("\"proxy_busy_buffers_size\" must be {LARGEST}")));
    }
    let (count, size) = *proxy.buffer;
    if busy > count.saturating_sub(1).saturating_mul(size) {
        let message = "\"proxy_busy_buffers_size\" must be less than the size of all \"proxy_buffers\" minus one buffer";
        return Err((at, message.into()));
    }
    let (write, at) = given(&cache.temp_file_write_size);
    if write < largest {
        return Err((at, format!("\"proxy_temp_file_write_size\" must be {LARGEST}")));
    }
    match &*cache.max_temp_file_size {
        Some((most, at)) if *most != 0 && *most < largest => {
            let message = "\"proxy_max_temp_file_size\" must be equal to zero to disable temporary files usage or must be";
            Err((Some(at.clone()), format!("{message} {LARGEST}")))
        }
        _ => Ok(()),
    }
}
