"""The forms of the example's pages."""

from django import forms
from django.template.defaultfilters import filesizeformat

UPLOAD_LIMIT_BYTES = 20 * 1024 * 1024


class PaceForm(forms.Form):
    """The pace of a job: whether it pauses after each batch of rows."""

    # Long enough to watch the bar, short enough to be a real job.
    PAUSE_SECONDS = 0.1

    slowly = forms.BooleanField(required=False, initial=True, label="Slow down, so that you can watch")

    @property
    def pause_seconds(self):
        return self.PAUSE_SECONDS if self.cleaned_data["slowly"] else 0


class ImportForm(PaceForm):
    """A CSV file to import."""

    file = forms.FileField(
        label="CSV file",
        max_length=200,
        allow_empty_file=True,  # The job reports it, like any other invalid file.
        error_messages={"required": "Choose a CSV file first."},
        widget=forms.ClearableFileInput(attrs={"accept": ".csv,.tsv,.txt,text/csv"}),
    )
    field_order = ("file", "slowly")

    def clean_file(self):
        file = self.cleaned_data["file"]
        if file.size > UPLOAD_LIMIT_BYTES:
            size, limit = filesizeformat(file.size), filesizeformat(UPLOAD_LIMIT_BYTES)
            raise forms.ValidationError(f"This file is too large: it has {size}, and the limit is {limit}.")
        return file


class PhotosForm(PaceForm):
    """The pace of resizing: whether it pauses before each photo."""

    PAUSE_SECONDS = 1


class QueueForm(forms.Form):
    """The number and length of small jobs for one slow worker."""

    jobs = forms.IntegerField(label="Jobs", min_value=1, max_value=10, initial=5)
    seconds = forms.FloatField(label="Seconds for each", min_value=0.5, max_value=20, initial=3)


class TroubleForm(forms.Form):
    """The kind of trouble to cause."""

    kind = forms.ChoiceField(choices=[(kind, kind) for kind in ("retry", "message", "exception", "import", "restart")])
