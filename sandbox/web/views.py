from django.http import JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe
from gazetteer import geonames

from . import forms
from .runs import Busy, NoAnswer, runs

# What people read of a run's state, and the tenth of the way it is at.
STATES = {
    "starting": "Starting: reading the cities.",
    "importing": "Importing: {tenths} % are done.",
    "comparing": "Comparing the tables, row by row.",
    "stopping": "Stopping: undoing what was imported.",
    "stopped": "Stopped. Nothing is left of this import.",
    "failed": "The import failed.",
}
KEYS = ["plain", "plus", "bulk"]  # of the contenders, for the stylesheet
HINTS = {
    "answered by the cache": "no query was needed",
    "rows written": "cities, names, links …",
    "seconds": "of its own turns",
    "queries": "SELECT and INSERT",
    "savepoint statements": "around each INSERT",
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
        except Busy:  # somebody was quicker
            return page(request, form, status=409)
        return redirect("index")
    return page(request, None)


def page(request, form, status=200):
    run = runs.current
    is_going_on = runs.is_going_on
    if form is None and not is_going_on:  # asking who answers takes a while
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
        "values": values(form, run),
    }
    return render(request, "web/index.html", context, status=status)


def values(form, run):
    """Return what the controls show: what was sent, the last time or first."""
    if form is not None and form.is_bound:
        return form.data
    if run is not None:
        return run.chosen
    return {"cities": forms.DEFAULT, "database": "sqlite", "cache": "locmem"}


@require_POST
def stop(request):
    runs.stop()
    return redirect("index")


@require_safe
def progress(request):
    run = runs.current
    return JsonResponse(described(run) if run else {"state": "none"})


def described(run):
    """Return what the page shows of a run, as JSON can say it."""
    total, names = run.start.get("total"), run.start.get("names", [])
    _, rates = run.measures.get("rows/s", ("", {}))
    tenths = 0
    if total:
        tenths = sum(run.imported.values()) * 10 // (total * len(names)) * 10
    contenders = [
        {
            "key": key,
            "name": name,
            "imported": run.imported[name],
            "text": f"{run.imported[name]:,} of {total:,} read",
            "rate": format(rates.get(name, 0), ",.0f"),
            "points": list(run.points[name]),
        }
        for key, name in zip(KEYS, names, strict=False)
    ]
    status = run.message or STATES.get(run.state, "").format(tenths=tenths)
    if run.state == "done":
        differ = "The imports differ." if run.done["differences"] else ""
        status = differ or run.done["verdict"][0]
    return {
        "title": run.title,
        "state": run.state,
        "is_going_on": run.is_going_on,
        "status": status,
        "start": run.start,
        "total": total,
        "contenders": contenders,
        "table": table(run, contenders),
        "verdict": run.done.get("verdict", []),
        "equality": run.done.get("equality", ""),
        "differences": run.done.get("differences", []),
    }


def table(run, contenders):
    """Return the rows of the table of measures: title, hint, cells."""
    rows = []
    for number, (title, (spec, known)) in enumerate(list(run.measures.items())):
        cells = []
        for contender in contenders:
            value = known.get(contender["name"])
            cells.append(
                {
                    "id": f"measure-{number}-{contender['key']}",
                    "text": "-" if value is None else format(value, spec),
                }
            )
        rows.append({"title": title, "hint": HINTS.get(title, ""), "cells": cells})
    return rows


@require_safe
def lookup(request):
    """Look a row of the imported ones up."""
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
