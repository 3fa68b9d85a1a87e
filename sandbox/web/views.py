from django.http import JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe
from gazetteer import geonames, installing
from gazetteer.contenders import BULK, PLAIN, PLUS

from . import forms
from .runs import Busy, NoAnswer, runs

# What the page says of the state of a run.
STATES = {
    "starting": "Starting: reading the cities.",
    "importing": "{title}: {tenths} % are done.",
    "comparing": "{title}: comparing the tables, row by row.",
    "lookups": "{title}: {tenths} % are done.",
    "costs": "Measuring single calls.",
    "stopping": "Stopping: removing what was imported.",
    "stopped": "Stopped. Nothing is left of this import.",
    "failed": "The import failed.",
}
KEYS = {PLAIN: "plain", PLUS: "plus", BULK: "bulk"}  # for the stylesheet
# The words on the card of each contender.
WAYS = {
    PLAIN: "row by row",
    PLUS: "row by row, the same calls",
    BULK: "bulk_get_or_create()",
}
HINTS = {
    "answered by the cache": "no query was needed",
    "rows written": "cities, names, links …",
    "rows updated": "changed or not",
    "seconds": "of its own turns",
    "wrong rows": "older than the last commit",
}
HINTS_OF_ACTS = {
    "first": {
        "queries": "SELECT and INSERT",
        "savepoint statements": "around each INSERT",
    },
    "changed": {
        "calls": "of get_or_create() and update_or_create()",
        "queries": "SELECT and UPDATE",
        "savepoint statements": "around each UPDATE",
    },
    "lookups": {"answered by the cache": "of the lookups"},
}


def index(request):
    """Show the run of this server, and start one."""
    if request.method == "POST":
        form = forms.RunForm(request.POST)
        if runs.is_going_on:
            return page(request, form, status=409)
        if not form.is_valid():
            return page(request, form, status=400)
        try:
            runs.start(*form.order())
        except Busy:  # another request was quicker
            return page(request, form, status=409)
        return to_run()
    return page(request, None)


def to_run():
    """Redirect to the run, so that its title has the focus."""
    return redirect(f"{reverse('index')}#run-title")


def page(request, form, status=200):
    run = runs.current
    is_going_on = runs.is_going_on
    if form is None and not is_going_on:  # it takes a while to try all services
        form = forms.RunForm()
    context = {
        "form": form,
        "run": run and described(run),
        "is_going_on": is_going_on,
        "is_refused": status == 409,
        "least": forms.LEAST,
        "largest": geonames.LARGEST,
        "standard": geonames.STANDARD,
        "least_text": f"{forms.LEAST:,}",
        "largest_text": f"{geonames.LARGEST:,}",
        "standard_text": f"{geonames.STANDARD:,}",
        "python": installing.python(),
        "values": values(form, run),
    }
    return render(request, "web/index.html", context, status=status)


def values(form, run):
    """Return what the controls show: the form as sent, or the last choice."""
    if form is not None and form.is_bound:
        return form.data
    if run is not None:
        return run.chosen
    return forms.DEFAULTS


@require_POST
def stop(request):
    runs.stop()
    return to_run()


@require_safe
def progress(request):
    run = runs.current
    return JsonResponse(described(run) if run else {"state": "none"})


def described(run):
    """Return what the page shows of a run, as JSON can say it."""
    acts = list(run.acts)
    differences = run.done.get("differences", [])
    status = run.message or status_of(run.state, acts)
    if run.state == "done":
        status = "The imports differ." if differences else run.done["verdict"]["lead"]
    return {
        "title": run.title,
        "state": run.state,
        "is_going_on": run.is_going_on,
        "status": status,
        "start": run.start,
        "contenders": contenders(acts[0]) if acts else [],
        "acts": [
            {
                "key": act.key,
                "title": act.title,
                "note": act.note,
                "equality": act.equality,
                "contenders": [{"key": KEYS[name], "name": name} for name in act.names],
                "table": table(act),
            }
            for act in acts
        ],
        "verdict": run.done.get("verdict", {}),
        "differences": differences,
    }


def status_of(state, acts):
    text = STATES.get(state, "")
    if not acts:
        return text
    return text.format(title=acts[-1].title, tenths=acts[-1].tenths)


def contenders(first):
    """Return what the cards and the chart show, of the first import."""
    _, rates = first.measures.get("rows/s", ("", {}))
    return [
        {
            "key": KEYS[name],
            "name": name,
            "way": WAYS[name],
            "imported": first.done[name],
            "total": first.total,
            "text": f"{first.done[name]:,} of {first.total:,} read",
            "rate": format(rates.get(name, 0), ",.0f"),
            "points": list(first.points[name]),
        }
        for name in first.names
    ]


def table(act):
    """Return the rows of the table of measures: title, hint, cells."""
    hints = HINTS | HINTS_OF_ACTS.get(act.key, {})
    rows = []
    for number, (title, (spec, known)) in enumerate(list(act.measures.items())):
        cells = []
        for name in act.names:
            value = known.get(name)
            cells.append(
                {
                    "id": f"{act.key}-{number}-{KEYS[name]}",
                    "text": "-" if value is None else format(value, spec),
                }
            )
        rows.append({"title": title, "hint": hints.get(title, ""), "cells": cells})
    return rows


@require_safe
def lookup(request):
    """Look up one of the imported rows."""
    run = runs.current
    context = {"run": run and described(run), "kinds": forms.LookupForm.KINDS}
    context["can_answer"] = bool(run and run.can_answer)
    context["values"] = request.GET or {"model": "city"}
    status = 200
    if request.GET:
        form = context["form"] = forms.LookupForm(request.GET)
        if not form.is_valid():
            status = 400
        elif context["can_answer"]:
            context |= form.cleaned_data
            try:
                context["answer"] = run.ask(**form.cleaned_data)
            except NoAnswer:
                context["can_answer"] = False
        if status == 200 and not context["can_answer"]:
            status = 409
    return render(request, "web/lookup.html", context, status=status)
