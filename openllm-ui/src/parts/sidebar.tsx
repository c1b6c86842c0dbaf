/** The list of conversations: show one, begin one, rename or delete one. */

import { useState } from "preact/hooks";

import type { Chats } from "../chats.js";
import { titleOf, type Conversation } from "../conversation.js";
import { useWatched } from "../store.js";
import { Dialog } from "./dialog.js";
import { DeleteIcon, EditIcon, PlusIcon } from "./icons.js";

export interface SidebarProps {
  chats: Chats;
  system: string;
  /** Where the server shows its routes. */
  docs: string;
  /** A conversation was chosen: on a small screen the list makes room for it. */
  onChosen(): void;
}

type Asking = { what: "rename" | "delete"; of: Conversation };

export function Sidebar({ chats, system, docs, onChosen }: SidebarProps) {
  useWatched(chats);
  const [asking, setAsking] = useState<Asking>();
  const begin = (): void => {
    chats.create(system);
    onChosen();
  };
  const open = (id: string): void => {
    chats.open(id);
    onChosen();
  };
  return (
    <>
      <button type="button" class="new" onClick={begin}><PlusIcon /><span>New conversation</span></button>
      <ul class="conversations">
        {chats.list.map((each) => (
          <Entry key={each.id} conversation={each} shown={each.id === chats.current.id}
            running={chats.runningIn(each.id) !== undefined} onOpen={open} onAsk={setAsking} />
        ))}
      </ul>
      <p class="hint">
        {chats.lasting ? "Conversations are kept in this browser only." : "This browser keeps nothing: conversations end with this page."}{" "}
        <a href={docs}>All routes of the server</a>
      </p>
      {asking?.what === "rename" && (
        <Rename conversation={asking.of} onClose={() => setAsking(undefined)}
          onTitle={(title) => chats.rename(asking.of.id, title)} />
      )}
      {asking?.what === "delete" && (
        <Delete conversation={asking.of} onClose={() => setAsking(undefined)} onDelete={() => chats.remove(asking.of.id)} />
      )}
    </>
  );
}

interface EntryProps {
  conversation: Conversation;
  shown: boolean;
  running: boolean;
  onOpen(id: string): void;
  onAsk(asking: Asking): void;
}

function Entry({ conversation, shown, running, onOpen, onAsk }: EntryProps) {
  const title = titleOf(conversation);
  return (
    <li>
      <button type="button" class="title" aria-current={shown ? "true" : undefined} onClick={() => onOpen(conversation.id)}>
        {running && <span class="busy" role="img" aria-label="Being answered" />}
        <span>{title}</span>
      </button>
      {conversation.turns.length > 0 && (
        <span class="tools">
          <button type="button" class="quiet only-icon" aria-label={`Rename ${title}`} title="Rename"
            onClick={() => onAsk({ what: "rename", of: conversation })}><EditIcon /></button>
          <button type="button" class="quiet only-icon" aria-label={`Delete ${title}`} title="Delete"
            onClick={() => onAsk({ what: "delete", of: conversation })}><DeleteIcon /></button>
        </span>
      )}
    </li>
  );
}

function Rename({ conversation, onTitle, onClose }: { conversation: Conversation; onTitle(title: string): void; onClose(): void }) {
  const [title, setTitle] = useState(titleOf(conversation));
  const submit = (event: Event): void => {
    event.preventDefault();
    onTitle(title);
    onClose();
  };
  return (
    <Dialog title="Rename the conversation" onClose={onClose}>
      <form onSubmit={submit}>
        <label>
          <span>Title</span>
          <input type="text" value={title} maxLength={200} autoFocus onInput={(event) => setTitle(event.currentTarget.value)} />
        </label>
        <footer><button type="submit" class="primary">Rename</button></footer>
      </form>
    </Dialog>
  );
}

function Delete({ conversation, onDelete, onClose }: { conversation: Conversation; onDelete(): void; onClose(): void }) {
  const remove = (): void => {
    onDelete();
    onClose();
  };
  return (
    <Dialog title="Delete the conversation?" onClose={onClose}>
      <p>“{titleOf(conversation)}” is removed from this browser. There is no other copy.</p>
      <footer>
        <button type="button" autoFocus onClick={onClose}>Keep it</button>
        <button type="button" class="danger" onClick={remove}>Delete</button>
      </footer>
    </Dialog>
  );
}
