//! Which lines of an estimator are asked for before its turn comes (see [`crate::prefetch`]), in the order of its fields.

use super::SendSideEstimator;
use crate::prefetch::prefetch;

impl SendSideEstimator {
    /// What [`Self::handle_sent`] looks at.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        self.prefetch_times();
        prefetch(&self.history);
        prefetch(&self.latest_number);
        self.sent.prefetch();
    }

    /// What [`Self::handle_sent_unnumbered`] and [`Self::handle_report`] look at.
    #[inline(always)]
    pub(crate) fn prefetch_unnumbered(&self) {
        self.prefetch_times();
        self.fallback.prefetch();
    }

    #[inline(always)]
    fn prefetch_times(&self) {
        prefetch(&self.origin);
        prefetch(&self.feedback_at);
        prefetch(&self.unanswered_since);
    }

    /// What depends on that, once it is here.
    #[inline(always)]
    pub(crate) fn prefetch_pointees(&self) {
        self.sent.prefetch_next();
        self.history.prefetch();
    }

    /// What feedback looks at.
    #[inline(always)]
    pub(crate) fn prefetch_feedback(&self) {
        prefetch(&self.origin);
        prefetch(&self.feedback_at);
        prefetch(&self.unanswered_since);
        prefetch(&self.history);
        self.sent.prefetch();
        self.arrived.prefetch();
        self.groups.prefetch();
        self.trendline.prefetch();
        self.rate.prefetch();
        self.path.prefetch();
        self.competition.prefetch();
        prefetch(&self.config);
        prefetch(&self.limit);
        prefetch(&self.polled_at);
        self.loss.prefetch();
        self.prober.prefetch();
    }

    /// What depends on that, once it is here: packets from this number on are told of.
    #[inline(always)]
    pub(super) fn prefetch_fates(&self, number: u16) {
        self.history.prefetch_fates(number);
        self.sent.prefetch_next();
        self.sent.prefetch_rate(Self::SENT_WINDOW);
        self.arrived.prefetch_next();
        self.arrived.prefetch_rate(Self::ARRIVED_WINDOW);
        self.arrived.prefetch_rate(Self::STEADY_WINDOW);
    }
}
