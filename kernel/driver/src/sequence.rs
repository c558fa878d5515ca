//! Start and stop: what is taken from the system, in which order, and given back in reverse.

/// Something that the driver takes. Each may lean on those above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The trace provider, so that the rest can say what fails.
    Tracing,
    /// The runtime: programs, maps, links.
    Runtime,
    /// The control device. Nobody can open it before the driver has started: the I/O manager sees to that.
    Device,
    /// The worker that answers requests which wait.
    Waits,
    /// The callouts of every hook. From here on there are injections to wait for.
    Callouts,
    /// The watch over the base filtering engine, which adds the filters when it runs.
    Filters,
    /// The name by which user mode finds the device.
    Link,
}

impl Step {
    /// In the order that they are taken.
    pub const ALL: [Self; 7] =
        [Self::Tracing, Self::Runtime, Self::Device, Self::Waits, Self::Callouts, Self::Filters, Self::Link];
}

/// Who takes and gives back.
pub trait Parts {
    /// Why something could not be taken.
    type Error;

    /// Takes what `step` names, whole or not at all. Everything before it is there.
    ///
    /// # Errors
    /// Then nothing of it is left.
    fn acquire(&mut self, step: Step) -> Result<(), Self::Error>;

    /// Gives back what was taken. Everything after it is gone. It can't fail: what must be waited for is waited for.
    fn release(&mut self, step: Step);
}

/// Takes everything, or nothing.
///
/// # Errors
/// The step that failed, and why. What was taken before it was given back, the last first.
pub fn start<P: Parts>(parts: &mut P) -> Result<(), (Step, P::Error)> {
    for (count, step) in Step::ALL.into_iter().enumerate() {
        if let Err(error) = parts.acquire(step) {
            undo(parts, count);
            return Err((step, error));
        }
    }
    Ok(())
}

/// Gives everything back, the last first.
pub fn stop<P: Parts>(parts: &mut P) {
    undo(parts, Step::ALL.len());
}

fn undo<P: Parts>(parts: &mut P, count: usize) {
    for step in Step::ALL.into_iter().take(count).rev() {
        parts.release(step);
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// Holds what is taken, as a stack, and fails at one step.
    #[derive(Default)]
    struct Held {
        steps: Vec<Step>,
        fails: Option<Step>,
        tried: usize,
    }

    impl Parts for Held {
        type Error = &'static str;

        fn acquire(&mut self, step: Step) -> Result<(), Self::Error> {
            self.tried += 1;
            if self.fails == Some(step) {
                return Err("refused");
            }
            self.steps.push(step);
            Ok(())
        }

        fn release(&mut self, step: Step) {
            assert_eq!(self.steps.pop(), Some(step), "the last that was taken is the first to go");
        }
    }

    #[test]
    fn whatever_step_fails_nothing_is_left_and_nothing_more_is_tried() {
        for (count, step) in Step::ALL.into_iter().enumerate() {
            let mut held = Held { fails: Some(step), ..Held::default() };
            assert_eq!(start(&mut held), Err((step, "refused")));
            assert!(held.steps.is_empty(), "{step:?} left {:?}", held.steps);
            assert_eq!(held.tried, count + 1);
        }
    }

    #[test]
    fn a_stop_gives_back_all_that_a_start_took() {
        let mut held = Held::default();
        assert_eq!(start(&mut held), Ok(()));
        assert_eq!(held.steps, Step::ALL);
        stop(&mut held);
        assert!(held.steps.is_empty());
    }
}
