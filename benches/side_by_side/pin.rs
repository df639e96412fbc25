//! The load's core: where everything of this process that is load runs.

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::peers::LOAD_CORE;

/// Runs `future` on this thread, which stays on the load's core.
pub fn on_load_core<T>(future: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let mut core = CpuSet::new();
    core.set(LOAD_CORE);
    sched_setaffinity(None, &core).map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| e.to_string())?.block_on(future)
}

/// Runs what `make` makes in a thread of its own on the load's core, and waits for it.
pub fn load<T, F>(make: impl FnOnce() -> F + Send + 'static) -> Result<T, String>
where
    T: Send + 'static,
    F: Future<Output = Result<T, String>>,
{
    let thread = std::thread::spawn(move || on_load_core(make()));
    thread.join().map_err(|_| "a thread of the load fell")?
}
