"""What a user may send to the example's pages."""

from django import forms
from django.template.defaultfilters import filesizeformat

UPLOAD_LIMIT_BYTES = 20 * 1024 * 1024
# One pause after each batch of rows. It is long enough to watch the bar, and leaves the job real.
PAUSE_SECONDS = 0.1


class PaceForm(forms.Form):
    """Whether a job should pause between batches of rows."""

    slowly = forms.BooleanField(required=False, initial=True, label="Go slowly, so that there is something to watch")

    @property
    def pause_seconds(self):
        return PAUSE_SECONDS if self.cleaned_data["slowly"] else 0


class ImportForm(PaceForm):
    """A CSV file to import."""

    file = forms.FileField(
        label="CSV file",
        max_length=200,
        allow_empty_file=True,  # The job says so itself, as it would for any other bad file.
        error_messages={"required": "Choose a CSV file first."},
        widget=forms.ClearableFileInput(attrs={"accept": ".csv,.tsv,.txt,text/csv"}),
    )
    field_order = ("file", "slowly")

    def clean_file(self):
        file = self.cleaned_data["file"]
        if file.size > UPLOAD_LIMIT_BYTES:
            size, limit = filesizeformat(file.size), filesizeformat(UPLOAD_LIMIT_BYTES)
            raise forms.ValidationError(f"This file is too big: it has {size}, and the limit is {limit}.")
        return file


class QueueForm(forms.Form):
    """How many small jobs to send to the one slow worker."""

    jobs = forms.IntegerField(label="Jobs", min_value=1, max_value=10, initial=5)
    seconds = forms.FloatField(label="Seconds for each", min_value=0.5, max_value=20, initial=3)


class TroubleForm(forms.Form):
    """Which kind of trouble to cause."""

    kind = forms.ChoiceField(choices=[(kind, kind) for kind in ("retry", "message", "exception")])
