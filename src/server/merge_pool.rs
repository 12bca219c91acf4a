//! Threads for merges only.
//!
//! A merge waits for the client that reads its response. On the runtime's blocking threads many slow clients could occupy
//! all threads, and then no thread would be left to compress what those merges wait for.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs in the order in which they come, as many at once as there are threads. The threads end with the pool.
#[derive(Debug)]
pub struct MergePool {
    jobs: mpsc::Sender<Job>,
}

impl MergePool {
    /// Starts the threads.
    ///
    /// # Errors
    /// Where the system does not allow another thread.
    pub fn try_new(n_threads: usize) -> std::io::Result<Self> {
        let (jobs, receiver) = mpsc::channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..n_threads {
            let receiver = Arc::clone(&receiver);
            std::thread::Builder::new()
                .name("merge".to_owned())
                .spawn(move || work(&receiver))?;
        }
        Ok(Self { jobs })
    }

    /// Runs a job as soon as a thread is free.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The threads outlive the pool: there is always a receiver.
        let _ = self.jobs.send(Box::new(job));
    }
}

fn work(jobs: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else {
            return;
        };
        // The job's channel is dropped with it, so that the client sees the failure; the thread goes on.
        let _ = std::panic::catch_unwind(AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_panics_costs_no_thread() {
        let pool = MergePool::try_new(1).expect("a thread");
        let (sender, results) = mpsc::channel();
        let dropped = sender.clone();
        pool.run(move || {
            let _held = dropped;
            panic!("planted");
        });
        pool.run(move || sender.send(1).expect("the test waits"));
        assert_eq!(results.iter().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn jobs_run_beside_each_other() {
        let pool = MergePool::try_new(2).expect("threads");
        let (first, second) = (mpsc::channel(), mpsc::channel());
        // Each waits for the other.
        pool.run(move || {
            first.0.send(()).expect("the other waits");
            second.1.recv().expect("the other sends");
        });
        let (done, is_done) = mpsc::channel();
        pool.run(move || {
            first.1.recv().expect("the other sends");
            second.0.send(()).expect("the other waits");
            done.send(()).expect("the test waits");
        });
        is_done.recv().expect("both ran");
    }
}
