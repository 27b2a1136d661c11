#!/usr/bin/env bash
# Fresh machine -> environment, embedded driving world, tokenizer, world model, three prompted videos. A second run reuses what is there.
here=$(dirname "${BASH_SOURCE[0]}")
echo "WorldGPT demo: 12 to 14 minutes on two CPU cores, 4 GB of memory, 4 GB of disk (most of it packages)"
. "$here/environment.sh"
out=runs/demo

step() { # step NAME FILE-THAT-ENDS-IT COMMAND...: skipped when done, continued when interrupted
    local name=$1 done_file=$2 folder
    shift 2
    folder=$(dirname "$done_file")
    if [ -e "$done_file" ]; then
        echo "== $name: already in $folder"
    elif [ -e "$folder" ]; then
        echo "== $name: going on in $folder"
        "$@" --resume
    else
        echo "== $name"
        "$@"
    fi
}

# A part of dashsim, so that minutes are enough to learn it: three kinds of road, five looks, dense traffic or none.
step "Driving data (about 2 minutes)" $out/data/manifest.json \
    python scripts/prepare_data.py dashsim --output $out/data --episodes 90 --val-episodes 8 --heldout-episodes 0 \
    --roads highway two_way racetrack --weathers clear rain snow --times day night --traffic none heavy
step "Frame tokenizer (about 2 minutes)" $out/tokenizer/report.json \
    python scripts/train_tokenizer.py --preset demo --data $out/data --output $out/tokenizer
step "World model (about 6 minutes)" $out/worldgpt/report.json \
    python scripts/train_worldgpt.py --preset demo --data $out/data --tokenizer $out/tokenizer --output $out/worldgpt
echo "== Videos (less than a minute)"
python scripts/generate.py --checkpoint $out/worldgpt --prompt "rainy night" "sunny day" "snow, heavy traffic" \
    --frames 100 --guidance 5 --guidance-schedule frames=linear:50 --top-p 0.99 --decode draft:32 --seed 0 --output $out/videos/demo.mp4
