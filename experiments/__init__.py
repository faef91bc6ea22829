"""The study of docs/study.md: which labels help a student, on the embedded data.

    dvc repro experiments/dvc.yaml

A `teacher` and a `world` are project folders made by the tool's own commands; `students` trains
one student an arm and seed; `results` gathers figures, and `report` draws them.
"""
